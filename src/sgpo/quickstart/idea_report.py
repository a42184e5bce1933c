"""How the idea is shown: one problem, its answers, and the probabilities of the most changed tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sgpo.quickstart.idea import GUIDED_WARM_UP, TRAINED, VIEWS, WARM_UP

NAMES = {WARM_UP: "SFT", GUIDED_WARM_UP: "SFT\nguided", "grpo": "GRPO", "sgpo": "SGPO"}
CONTEXT, TOKEN = 22, 9  # columns of the table's texts
TAIL = 50  # characters of a trained model's answer


def print_idea(console: Console, idea: Mapping[str, Any], delta: float) -> None:
    """What `sgpo.quickstart.idea.find_idea` found, in at most 80 columns; `delta` is SGPO's (Eq. 5)."""
    counts = idea["problems"]
    console.print("\n[bold]The idea, on one problem that no model was trained on[/]\n")
    console.print(_choice(counts), highlight=False)
    console.print()
    console.print(_answers(idea))
    console.print()
    most = f"The {len(idea['tokens'])} most changed tokens of the guided answer, with their probabilities in %:"
    console.print(most, highlight=False)
    console.print(_changes(idea))
    console.print(
        "KL is how far the strategy moves the model's next-token distribution, in nats. SGPO is trained to make this "
        "move, from SFT to SFT guided, without the strategy; GRPO starts from the same SFT and never sees a strategy.",
        highlight=False,
    )
    if any(token["divergence"] > delta for token in idea["tokens"]):
        console.print(f"Training leaves tokens out whose KL is above delta = {delta:g}.", highlight=False)
    if counts["helped"]:
        after = counts["solved_after"]
        console.print(
            f"Of the {counts['helped']} problems that SFT solves only with the strategy, GRPO now solves "
            f"{after['grpo']} without it, SGPO {after['sgpo']} (greedy answers).",
            highlight=False,
        )


def _choice(counts: Mapping[str, Any]) -> str:
    """By which rule the problem was chosen, and from how many."""
    if not counts["helped"]:
        return (
            f"None of {counts['all']} development problems has a right strategy, a wrong answer of the warm-up (SFT) "
            "without it and a right answer with it. So among all with a right strategy, this is the one whose guided "
            "answer the strategy changes most (largest mean divergence)."
        )
    return (
        f"Of {counts['all']} development problems, {counts['right_strategy']} have a right strategy. The warm-up (SFT) "
        f"answers {counts['helped']} of these wrongly without it and rightly with it. Among them, this is the one "
        "whose guided answer the strategy changes most (largest mean divergence)."
    )


def _answers(idea: Mapping[str, Any]) -> Table:
    problem, answers = idea["problem"], idea["answers"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    grid.add_row("problem", Text(problem["prompt"]))
    grid.add_row("strategy", Text(problem["strategy"], style="cyan"))
    for name in VIEWS:
        text = Text(answers[name]["text"])
        if name == GUIDED_WARM_UP:
            for token in idea["tokens"]:
                text.stylize("bold underline", len(token["before"]), len(token["before"] + token["token"]))
        elif name in TRAINED and len(text) > TAIL:
            text = Text("…") + text[-TAIL:]
        verdict = ("right", "green") if answers[name]["correct"] else (f"wrong, it is {problem['answer']}", "red")
        grid.add_row(NAMES[name].replace("\n", " "), text.append("  ").append(*verdict))
    return grid


def _changes(idea: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("after", justify="right", no_wrap=True, width=CONTEXT, style="dim")
    table.add_column("SFT\nwould say", no_wrap=True, max_width=TOKEN)
    table.add_column("guided\nit says", no_wrap=True, max_width=TOKEN, style="bold")
    table.add_column("KL", justify="right", no_wrap=True)
    for name in VIEWS:
        table.add_column(NAMES[name], justify="right", no_wrap=True, style="cyan" if name == GUIDED_WARM_UP else "")
    for token in idea["tokens"]:
        said = (Text(_visible(token[name]).strip()) for name in ("unguided", "token"))
        table.add_row(_end(token["before"]), *said, *_numbers(token))
    table.add_section()
    average = idea["average"]
    table.add_row(f"mean, {average['tokens']} such tokens", "", "", *_numbers(average))
    return table


def _numbers(values: Mapping[str, Any]) -> list[str]:
    return [f"{values['divergence']:.1f}", *(f"{100 * values['probability'][name]:.0f}" for name in VIEWS)]


def _end(text: str) -> Text:
    """As much of the end as the column has room for."""
    if not text:
        return Text("(start)")
    shown = _visible(text)
    return Text(shown if len(shown) <= CONTEXT else "…" + shown[1 - CONTEXT :])


def _visible(text: str) -> str:
    return text.replace("\n", "↵")
