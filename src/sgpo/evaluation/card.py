"""Scores on a model's card, where `sgpo eval --card` asks for them: the README.md of the evaluated folder.

The metadata of the card (`model-index`, which the Hub reads) holds them, and the table is drawn from it anew each time.
So a set that is evaluated again replaces its row, the other rows stay, and the rest of the text is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgpo import __version__
from sgpo.evaluation.benchmarks import BENCHMARKS, ProblemSet
from sgpo.files import check_file_writable, replacing
from sgpo.problems.inspection import describe_problems

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

    from sgpo.evaluation.evaluate import Evaluation
    from sgpo.evaluation.results import Result

CARD = "README.md"
BEGIN, END = "<!-- sgpo eval: begin -->", "<!-- sgpo eval: end -->"
LATER = re.compile(r"^## (Training|Merging)\b", re.MULTILINE)  # sections that the scores stand above
COLUMNS = {
    "problems": "problems",
    "standard_error": "±",
    "temperature": "temperature",
    "top_p": "top-p",
    "max_completion_length": "tokens at most",
    "truncated": "cut off",
}


def check_card(model: str) -> None:
    """Raises ValueError for a model without a card that scores can be added to."""
    folder = Path(model)
    if not folder.is_dir():
        raise ValueError(f"card: {model} is no folder here, so it has no card to write to; leave card out")
    if not (folder / CARD).is_file():
        raise ValueError(
            f"card: {folder} has no {CARD}; `sgpo train`, `sft` and `export` write one, or write one yourself"
        )
    check_file_writable(folder / CARD, "card:")
    _read(folder)


def add_scores(model: str, results: Sequence[Result]) -> None:
    """Put the scores of an evaluation into the metadata and the table of a card, see `check_card`."""
    card = _read(Path(model))
    found = [score for result in results for score in _scores(result)]
    taken = {_key(each) for each in found}
    data: Any = card.data  # huggingface_hub says that it is any card's
    kept = [each for each in data.eval_results or [] if _key(each) not in taken]
    data.eval_results = [*kept, *found]
    data.model_name = data.model_name or Path(model).resolve().name
    card.text = _with_section(card.text, _section(data.eval_results))
    with replacing(Path(model) / CARD) as partial:
        partial.write_text(card.content, encoding="utf-8")


def _read(folder: Path) -> ModelCard:
    import yaml
    from huggingface_hub import ModelCard

    try:
        return ModelCard((folder / CARD).read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"card: the metadata of {folder / CARD} cannot be read ({said}); mend them") from error


def _scores(result: Result) -> list[EvalResult]:
    """That of the samples, and of the greedy answers where they were asked for."""
    found = [_score(result, result.evaluation, f"avg@{result.evaluation.k}", _sampling(result))]
    if result.greedy is not None:
        found.append(_score(result, result.greedy, "greedy", _sampling(result) | {"temperature": 0.0}))
    return found


def _sampling(result: Result) -> dict[str, Any]:
    sampling = result.asked.sampling
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_completion_length": sampling.max_new_tokens,
        "seed": result.asked.seed,
    }


def _score(result: Result, evaluation: Evaluation, name: str, sampling: Mapping[str, Any]) -> EvalResult:
    """All shares in percent."""
    from huggingface_hub import EvalResult

    problems = result.problems
    described = describe_problems(problems.problems, problems.source)
    return EvalResult(
        task_type="text-generation",
        dataset_name=problems.name,
        dataset_args={"fingerprint": described["fingerprint"]},
        metric_type="accuracy",
        metric_name=name,
        metric_value=_percent(evaluation.average),
        metric_args={
            "problems": described["problems"],
            "standard_error": _percent(evaluation.standard_error),
            "truncated": _percent(evaluation.truncated),
            **sampling,
            "sgpo": __version__,
        },
        **_origin(problems),
    )


def _origin(problems: ProblemSet) -> dict[str, Any]:
    """Where the Hub finds a benchmark that was read from there; of another set its name."""
    found = BENCHMARKS.get(problems.name)
    if found is None or found.hub is None or found.source != problems.source:
        return {"dataset_type": problems.name}  # a folder of this machine says nothing elsewhere
    return {
        "dataset_type": found.hub,
        "dataset_config": found.config,
        "dataset_split": found.split,
        "dataset_revision": found.revision,
    }


def _percent(share: float) -> float:
    return round(100 * float(share), 2)


def _key(score: EvalResult) -> tuple[str | None, ...]:
    """What a new score replaces."""
    where = (score.task_type, score.dataset_type, score.dataset_config, score.dataset_split, score.dataset_revision)
    return (*where, score.metric_name)


def _section(scores: Sequence[EvalResult]) -> str:
    own = [each for each in scores if (each.metric_args or {}).keys() >= COLUMNS.keys()]  # others' stay in the metadata
    names = ["set", "score", "%", *COLUMNS.values()]
    rows = [
        [each.dataset_name, each.metric_name, each.metric_value, *((each.metric_args or {})[name] for name in COLUMNS)]
        for each in own
    ]
    lines = [f"| {' | '.join(map(str, row))} |" for row in (names, ["---"] * len(names), *rows)]
    said = (
        "Measured with `sgpo eval`, without strategies. avg@k is the mean over problems of the share of k samples that "
        "are correct, ± one standard error over problems; cut off: answers that reached the limit and count as wrong. "
        "All shares in %."
    )
    return "\n".join([BEGIN, "## Evaluation", "", *lines, "", said, END])


def _with_section(text: str, section: str) -> str:
    start, end = text.find(BEGIN), text.find(END)
    if 0 <= start < end:
        return text[:start] + section + text[end + len(END) :]
    if (later := LATER.search(text)) is not None:
        return f"{text[: later.start()]}{section}\n\n{text[later.start() :]}"
    return f"{text.rstrip()}\n\n{section}\n"
