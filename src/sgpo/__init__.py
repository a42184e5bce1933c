"""Strategy-Guided Policy Optimization (arXiv:2606.24064).

The names below load what they need when they are first used: `import sgpo` alone imports neither torch nor
transformers, which worker processes and the command line rely on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgpo.problems import Problem, load_problems
    from sgpo.rewards import math_reward
    from sgpo.training.config import SGPOConfig
    from sgpo.training.trainer import SGPOTrainer
    from sgpo.verification import Verdict, verify, verify_many

__version__ = "0.1.0"
_HOME = {
    "Problem": "sgpo.problems",
    "SGPOConfig": "sgpo.training.config",
    "SGPOTrainer": "sgpo.training.trainer",
    "Verdict": "sgpo.verification",
    "load_problems": "sgpo.problems",
    "math_reward": "sgpo.rewards",
    "verify": "sgpo.verification",
    "verify_many": "sgpo.verification",
}
__all__ = [
    "Problem",
    "SGPOConfig",
    "SGPOTrainer",
    "Verdict",
    "load_problems",
    "math_reward",
    "verify",
    "verify_many",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'sgpo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
