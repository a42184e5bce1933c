r"""Is the final answer of a response right?

The rules, in this order:

1. Where a ``</think>`` stands, only what follows the last one is judged (option).
2. The answer is the content of the LAST BALANCED ``\boxed{...}``; no such box means 'unparsed'. Math-Verify's
   own extraction makes a set of two boxes, so that ``\boxed{7} ... \boxed{8}`` would not be 8.
3. Equal text after normalisation (spaces, ``\left``, ``\dfrac``, dollar signs, a final full stop) is
   'correct'.
4. Two plain numbers are compared exactly, as decimals.
5. Units that differ, bases that differ, and brackets of different kinds are 'wrong' (``sgpo.verification.notation``).
6. Everything else goes to Math-Verify in a worker process with limits on time and memory
   (``sgpo.verification.worker`` says why). Exceeding either is 'timeout', except that Math-Verify itself
   takes some failed allocations for an answer that differs: those are 'wrong'.

Model text is only ever parsed, never evaluated. docs/verification.md lists what remains of Math-Verify's leniency.
"""

from sgpo.verification.answers import after_thinking, last_boxed, normalise
from sgpo.verification.counts import STATUSES, Status, VerdictCounts, count_verdicts
from sgpo.verification.judging import (
    MAX_ANSWER_LENGTH,
    MAX_DEPTH,
    TIMEOUT,
    Verdict,
    check_gold,
    check_golds,
    verify,
    verify_many,
)
from sgpo.verification.pool import MAX_WORKERS, close_pool

__all__ = [
    "MAX_ANSWER_LENGTH",
    "MAX_DEPTH",
    "MAX_WORKERS",
    "STATUSES",
    "TIMEOUT",
    "Status",
    "Verdict",
    "VerdictCounts",
    "after_thinking",
    "check_gold",
    "check_golds",
    "close_pool",
    "count_verdicts",
    "last_boxed",
    "normalise",
    "verify",
    "verify_many",
]
