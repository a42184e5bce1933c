"""What came of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from sgpo.evaluation.benchmarks import ProblemSet
from sgpo.evaluation.engines import EvaluationRequest
from sgpo.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class Result:
    """What came of a set, and of its greedy answers where they were asked for."""

    problems: ProblemSet
    asked: EvaluationRequest
    evaluation: Evaluation
    greedy: Evaluation | None = None
