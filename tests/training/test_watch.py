"""What users watch: metrics and their names, warnings, completions, the table at the start, the model card."""

from __future__ import annotations

import json
import logging
import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from method_cases import group_of
from places import ROOT
from rich.console import Console
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.distributed import unshare
from sgpo.engine.not_finite import NotFiniteError
from sgpo.means import Means
from sgpo.methods.records import Decision
from sgpo.methods.registry import find_method
from sgpo.problems import Problem
from sgpo.rewards import math_reward
from sgpo.sampling.records import Rollout
from sgpo.training import completions_table
from sgpo.training.alarms import Alarms
from sgpo.training.metrics import Logbook
from sgpo.training.start_table import start_rows
from sgpo.training.step import Update

DOCS = ROOT / "docs" / "metrics.md"
PROBLEMS = [
    Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), "-", f"Steps: (a) add {n}" if n else None)
    for n in range(8)
]


def parity(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(completion) % 2) for completion in completions]


Train = Callable[..., SGPOTrainer]


@pytest.fixture
def make_trainer(make_config: Callable[..., SGPOConfig], checkpoint: Path) -> Train:
    def make(rewards: Any = parity, weights: Any = None, **changes: Any) -> SGPOTrainer:
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        # Every fourth token ends a completion, or a model with random weights would hardly ever end one.
        model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 4))
        of_method = {"delta": 3.0} if "method" not in changes else {}
        config = make_config(max_completion_length=9, learning_rate=1e-3, **of_method, **changes)
        return SGPOTrainer(model, config, PROBLEMS, PROBLEMS[:2], reward_funcs=rewards, reward_weights=weights)

    return make


def lines_of(trainer: SGPOTrainer) -> list[dict[str, Any]]:
    path = Path(trainer.args.output_dir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- metrics ------------------------------------------------------------------------------------------------


def documented_names() -> set[str]:
    """All in backticks in the first column of the tables about metrics, and the totals of Trainer below them."""
    section = DOCS.read_text().partition("\n## Metrics")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    totals = section.partition("The last line of a run")[2].partition("`Trainer`")[2]
    return {name for text in (*cells, totals) for name in re.findall(r"`([^`]+)`", text)}


HINTED = {"method": "scaf_grpo", "num_autonomous": 2, "num_guided": 2, "max_steps": 6}


def test_metrics_are_those_of_the_documentation(make_trainer: Train) -> None:
    evaluation = {"eval_strategy": "steps", "eval_steps": 2, "eval_samples": 3, "correctness": ["parity"]}
    trainer = make_trainer([parity, math_reward], [1.0, 0.0], **evaluation, max_steps=4)
    trainer.train()
    logged = {name for line in lines_of(trainer) for name in line}
    evaluated = {name for name in logged if name.startswith("eval_")}
    # What other methods log beside it.
    for others in ({"method": "hpt", "hpt_gate": 0.9}, {"method": "sdpo"}, HINTED):
        trainer = make_trainer(**others, skip_grad_norm=1e9, overwrite=True, eval_strategy="no")
        trainer.train()
        logged |= {name for line in lines_of(trainer) for name in line}
    trainers = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    assert evaluated.isdisjoint(trainers)
    own_prompts = set(find_method("scaf_grpo").prompts)
    logged = {name for name in logged if name.split("/")[-1] not in own_prompts}
    logged = {re.sub(r"rewards/\w+/", "rewards/NAME/", name.replace("_at_3", "_at_k")) for name in logged}
    assert logged == documented_names()


def test_clip_shares_and_speeds(make_trainer: Train) -> None:
    trainer = make_trainer(max_steps=2, completions_steps=1)
    trainer.train()
    first, second = lines_of(trainer)[:2]
    assert first["clipped_share"] == first["clipped_share/low"] == first["clipped_share/high"] == 0.0
    assert second["clipped_share"] == second["clipped_share/low"] + second["clipped_share/high"] > 0
    table = pq.read_table(Path(trainer.args.output_dir) / "completions" / "step-000000.parquet")
    tokens = sum(table["tokens"].to_pylist())
    assert first["tokens_per_second/sample"] * first["seconds/sample"] == pytest.approx(tokens)
    assert "tokens_per_second/sample" not in second


def test_logbook_by_hand() -> None:
    book = Logbook()
    for values in ([1.0, 2.0, 6.0], [5.0]):
        means = Means()
        means.add("length", values)
        means.add("nothing", [])
        book.record(means)
    book.record(Means.of({"entropy": 0.5}))
    book.count_tokens("sample", 30)
    book.seconds = {"sample": [2.0, 4.0]}
    expected = {"length": 4.0, "entropy": 0.5, "seconds/sample": 3.0, "tokens_per_second/sample": 5.0}
    assert book.take() == expected
    assert book.take() == {}


def test_spreads_of_parts_are_that_of_the_whole() -> None:
    values = [3.0, -1.0, 1e6, 4.0, 0.5, 2.0]
    parts = [Means(), Means(), Means()]
    for part, some in zip(parts, (values[:1], values[1:4], values[4:]), strict=True):
        part.add_spread("rewards/f", some)
    found = Means.joined([Means(), *parts]).values()
    assert found["rewards/f/mean"] == pytest.approx(statistics.mean(values), rel=1e-14)
    assert found["rewards/f/std"] == pytest.approx(statistics.stdev(values), rel=1e-14)
    assert Means.joined(parts[:1]).values() == {"rewards/f/mean": 3.0}  # of one value there is no deviation
    nothing = Means()
    nothing.add_spread("rewards/f", [])
    assert nothing.values() == {}


def test_shares_come_together_again() -> None:
    items = list(range(7))
    assert unshare([items[rank::3] for rank in range(3)]) == items


# --- warnings -----------------------------------------------------------------------------------------------


def said(lines: Sequence[dict[str, float]]) -> list[tuple[int, str]]:
    """Step and text of each warning."""
    alarms, found = Alarms(max_completion_length=64, delta=0.5), []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("sgpo.training.alarms")
    logger.addHandler(handler)
    try:
        for step, line in enumerate(lines, start=1):
            state = TrainerState(global_step=step, is_world_process_zero=True)
            alarms.on_log(None, state, TrainerControl(), {"loss": 0.0, **line})
    finally:
        logger.removeHandler(handler)
    return [(int(text.split(":")[0].removeprefix("update ")), text.partition(": ")[2]) for text in found]


@pytest.mark.parametrize(
    ("good", "bad", "begins", "remedy"),
    [
        (
            {"truncated/autonomous": 0.5},
            {"truncated/autonomous": 0.51},
            "51% of the completions hit max_completion_length (64)",
            "Raise max_completion_length",
        ),
        (
            {"divergence_masked_share": 0.99, "divergence": 0.7},
            {"divergence_masked_share": 1.0, "divergence": 0.75},
            "delta (0.5) masks every token of every target: the strategy changes the distributions by 0.75 nats",
            "Raise delta",
        ),
        ({"verdicts/timeout": 0.05}, {"verdicts/timeout": 0.06}, "6% of the answers were not compared", "cores"),
        ({"sampler_mismatch": 0.1}, {"sampler_mismatch": 0.11}, "the sampling engine's", "importance_cap: 2.0"),
    ],
)
def test_warnings_of_one_line(good: dict[str, float], bad: dict[str, float], begins: str, remedy: str) -> None:
    """Said once, and again after it was over."""
    found = said([good, bad, bad, {}, good, bad])
    assert [step for step, _ in found] == [2, 6]
    assert all(text.startswith(begins) and remedy in text for _, text in found)


def test_warning_of_rewards_that_are_always_zero() -> None:
    nothing = {"reward/autonomous": 0.0, "reward/guided": 0.0}
    found = said([nothing] * 9 + [{**nothing, "reward/guided": 0.1}] + [nothing] * 12)
    assert [step for step, _ in found] == [20]
    assert found[0][1].startswith("all rewards were 0 in the last 10 lines of the log, so nothing is learnt")
    assert "completions" in found[0][1]


def test_warning_of_an_entropy_that_collapses() -> None:
    entropies = [2.0, 2.2, 1.8, 2.0, 2.0, *[1.0] * 5, *[0.1] * 9]
    found = said([{"entropy": value} for value in entropies])
    # The mean of the last five is below 0.2 when all of them are 0.1.
    assert [step for step, _ in found] == [15]
    assert found[0][1].startswith("the entropy has fallen from 2 to 0.1 nats a token")


def test_a_run_warns(make_trainer: Train, caplog: pytest.LogCaptureFixture) -> None:
    def never(completions: Sequence[str], **columns: Any) -> list[float]:
        return [0.0] * len(completions)

    make_trainer(never, max_steps=12).train()
    assert [r.getMessage() for r in caplog.records if "all rewards were 0" in r.getMessage()] == [
        record.getMessage() for record in caplog.records if record.getMessage().startswith("update 10: all rewards")
    ]
    assert any(record.getMessage().startswith("update 10: all rewards were 0") for record in caplog.records)


# --- what is not finite -------------------------------------------------------------------------------------

POISONED = ("surrogate", "jensen_shannon_distillation")


@pytest.mark.parametrize(
    ("what", "max_grad_norm", "method"),
    [
        ("the loss", 0.0, {}),
        ("the loss", 1.0, {}),
        ("the gradient", 0.0, {}),
        ("the gradient", 1.0, {}),
        ("the loss", 1.0, {"method": "opsd"}),  # whose teacher is another model
    ],
)
def test_not_finite_stops_with_the_sequences(
    make_trainer: Train, what: str, max_grad_norm: float, method: dict[str, str]
) -> None:
    trainer = make_trainer(max_grad_norm=max_grad_norm, max_steps=4, **method)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    decide = trainer._decide

    def poisoned(groups: Any) -> list[Update]:
        first, *others = decide(groups)
        place = next(n for n, row in enumerate(first.rows) if row.term in POISONED and row.contributes)
        weights = torch.ones(len(first.rows[place].completion_ids))
        weights[0] = math.nan if what == "the loss" else 1e38
        first.rows[place] = replace(first.rows[place], weights=weights)
        return [first, *others]

    trainer._decide = poisoned  # type: ignore[method-assign]
    with pytest.raises(NotFiniteError, match=rf"{what} of update 1 is not finite.*learning_rate") as caught:
        trainer.train()
    assert "1 in " in str(caught.value)
    path = Path(trainer.args.output_dir) / "not-finite" / "update-1.jsonl"
    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(row["completion_ids"]) == len(row["weights"])
    assert row["completion"] == trainer.processing_class.decode(row["completion_ids"])
    if what == "the loss":
        assert math.isnan(row["weights"][0])
    else:
        assert row["weights"][0] == pytest.approx(1e38)
    for parameter, old in zip(trainer.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
    assert not (Path(trainer.args.output_dir) / "metrics.jsonl").exists()


# --- completions --------------------------------------------------------------------------------------------


def test_completions_of_a_run(make_trainer: Train, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(completions_steps=4, max_steps=6)
    trainer.train()
    folder = Path(trainer.args.output_dir) / "completions"
    assert sorted(path.name for path in folder.glob("*.parquet")) == ["step-000000.parquet", "step-000004.parquet"]
    lines = lines_of(trainer)
    for step in (0, 4):
        rows = pq.read_table(folder / f"step-{step:06d}.parquet").to_pylist()
        assert {row["step"] for row in rows} == {step}
        for update in (0, 1):
            line, part = lines[step + update], [row for row in rows if row["update"] == update]
            for group in ("autonomous", "guided"):
                rewards = [row["reward"] for row in part if row["group"] == group]
                assert line[f"reward/{group}"] == pytest.approx(sum(rewards) / len(rewards))
                correct = [row["correct"] for row in part if row["group"] == group]
                assert line[f"pass_rate/{group}"] == pytest.approx(sum(correct) / len(correct))
            problems = {row["problem"]: row["alpha"] for row in part}
            assert line["alpha"] == pytest.approx(sum(problems.values()) / len(problems))
            # A target wherever alpha is above 0, and it is a correct, complete, guided completion.
            targets = [row for row in part if row["target"]]
            assert {row["problem"] for row in targets} == {problem for problem, alpha in problems.items() if alpha}
            assert all(row["group"] == "guided" and row["correct"] and not row["truncated"] for row in targets)
    out = capsys.readouterr().out
    assert f"{len(rows)} completions of 4 problems: {folder}/step-000004.parquet" in out
    assert out.count("After 4 updates, problem") == 2


def test_the_table_of_completions() -> None:
    target = Rollout([1, 2], None, truncated=False, reward=1.2, correct=True)
    long = Rollout([1] * 9, None, truncated=True)
    group = group_of(Problem("a", "2 + [x]", "3", strategy="add"), [1], [2], [long], [target, long])

    class Words:
        def batch_decode(self, rows: Sequence[list[int]], skip_special_tokens: bool) -> list[str]:
            return ["one\n two [/b]" if len(row) == 2 else "w" * 300 for row in rows]

    decision = Decision([], "1 of 2 guided completions is correct", alpha=0.25, targets=[target])
    rows = completions_table.completion_rows([group], [decision], Words(), step=6, update=1)
    assert [row["completion_ids"] for row in rows] == [[1] * 9, [1, 2], [1] * 9]
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(completions_table.problem_table(rows, 6))
    lines = [line.strip("│ ") for line in console.export_text().splitlines()]
    expected = ["After 6 updates, problem a", "2 + [x]", "answer 3", "strategy add", decision.reason]
    assert lines[:5] == expected
    cells = [[cell.strip() for cell in line.split("│")] for line in lines if line.startswith(("autonomous", "guided"))]
    assert [row[:4] for row in cells] == [
        ["autonomous", "0", "no", "9 cut"],
        ["guided ★ α 0.25", "1.2", "yes", "2"],
        ["guided", "0", "no", "9 cut"],
    ]
    assert cells[1][4] == "one two [/b]"
    assert cells[0][4].startswith("w" * 40)
    assert "…" in "".join(lines)


@pytest.mark.parametrize(
    ("every", "updates", "due"),
    [(0, 2, []), (4, 2, [0, 4, 8]), (3, 2, [0, 4, 6]), (1, 2, [0, 2, 4, 6, 8]), (5, 1, [0, 5])],
)
def test_when_completions_are_kept(every: int, updates: int, due: list[int]) -> None:
    assert [step for step in range(0, 10, updates) if completions_table.is_due(step, every, updates)] == due


# --- at the start and at the end ----------------------------------------------------------------------------


def test_the_table_at_the_start(make_config: Callable[..., SGPOConfig]) -> None:
    config = make_config(
        num_autonomous=8,
        num_guided=4,
        max_completion_length=80,
        max_tokens_per_microbatch=300,
        save_strategy="steps",
        save_steps=10,
        save_total_limit=2,
        eval_strategy="epoch",
        completions_steps=0,
    )
    rows = dict(start_rows(config, PROBLEMS, longest_prompt=20, max_steps=30, first_step=10, evaluated=True))
    assert rows == {
        "problems": "8; 4 a rollout batch, 2 an update",
        "samples a problem": "8 autonomous + 4 guided or 12 autonomous",
        "samples a rollout batch": "48; up to 3,840 tokens",
        "updates": "20 after the first 10, 2 for each of 10 rollout batches",
        # 2 problems of 12 autonomous completions and 4 guided; three of 100 tokens fit into 300.
        "micro-batches an update": "at most 11: together they hold up to 32 sequences of up to 100 tokens, and each "
        "has room for 300",
        "processes": "1, on cpu",
        "checkpoints": "every 10 updates, the newest 2 kept; after Ctrl-C",
        "evaluation": "after each epoch",
        "completions": "not kept",
        "metrics": "metrics.jsonl",
        "report": "report.html, kept current",
    }


def test_a_run_says_what_it_will_do(make_trainer: Train, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer().train()
    out = capsys.readouterr().out
    assert out.count("│ problems ") == 1
    assert out.count("fingerprint") == 2  # of training and evaluation problems


def test_a_run_says_what_its_first_update_took(make_trainer: Train, capsys: pytest.CaptureFixture[str]) -> None:
    """The phases are those of that update, sampling of the whole rollout batch included, and no more than all of it."""
    trainer = make_trainer(max_steps=4)
    trainer.train()
    found = re.findall(
        r"^First update: ([\d.]+) s \((.*)\); memory of the process at most", capsys.readouterr().out, re.M
    )
    ((whole, parts),) = found
    phases = dict(part.removesuffix(" s").split(" ") for part in parts.split(", "))
    assert [*phases] == ["sample", "verify", "assemble", "optimise"]
    assert sum(map(float, phases.values())) <= float(whole) + 0.25  # each is rounded
    line = lines_of(trainer)[0]
    assert float(phases["sample"]) == pytest.approx(line["seconds/sample"], abs=0.06)


def test_the_model_card(make_trainer: Train, checkpoint: Path) -> None:
    trainer = make_trainer(eval_strategy="steps", eval_steps=2)
    trainer.train()
    trainer.save_model()
    text = (Path(trainer.args.output_dir) / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["library_name"] == "transformers"
    assert values["tags"] == ["sgpo"]
    assert str(checkpoint.parent) not in text  # of this machine
    measured = lines_of(trainer)
    (score,) = [line["eval_avg_at_4"] for line in measured if "eval_avg_at_4" in line]
    for line in (
        "# run",
        "| learning_rate | 0.001 |",
        "| num_guided | 2 |",
        "| updates | 2 |",
        f"| train problems | 8, fingerprint `{trainer.data['train']['fingerprint']}` |",
        f"| eval_avg_at_4 | {score:.4g} |",
        f"| torch | {torch.__version__} |",
    ):
        assert f"{line}\n" in body, line
