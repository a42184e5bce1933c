r"""The process that compares answers symbolically, and its killable workers.

Math-Verify can run for ever or fill the memory on one hostile answer (a tower of powers is enough), inside C
code that no signal handler interrupts. Only the end of the process helps, so comparisons run in workers of
Pebble's ``ProcessPool``, which kills and replaces a worker that exceeds its time; an address-space limit ends
those that grow.

The pool lives in a fresh interpreter of its own, started by ``sgpo.verification.pool``, and not in the caller's
process, because of the start methods: ``fork`` is unsafe in a process with torch's threads and would inherit
gigabytes of address space against which no limit could be set; ``spawn`` and ``forkserver`` import the
caller's main script again, which breaks scripts without a ``__main__`` guard. Here ``fork`` is right: the
process is small, has imported nothing but Math-Verify, and a replaced worker is there in milliseconds instead
of the second that importing SymPy takes.

Only LaTeX extraction is used, never Math-Verify's plain expressions: those go through SymPy's ``parse_expr``,
which evaluates text. This module must stay quick to import: no torch, no transformers.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

import math_verify
import sympy
from math_verify import grader
from pebble import ProcessExpired, ProcessFuture, ProcessPool

ADDRESS_SPACE = 2 * 1024**3  # bytes; an ordinary comparison needs about 0.2 GiB
TASKS_PER_WORKER = 1000  # then it is replaced, so that SymPy's caches and a fragmented heap do not pile up
BAD_GOLD = "bad gold"
TOLERANCE = 1e-12  # of two equal numbers, relative
TOLERANCE_OF_DECIMALS = 1e-4  # a decimal of 6 places may stand for a number of at least 0.005
SEED = 0  # of each parse and comparison: SymPy asks in a random order what it can say of an expression

WARM_UP = [
    (r"\frac{1}{2}", "0.5"),
    ("p - q", "q - p"),
    (r"3 \sqrt{13} + 2 i", r"\frac{2}{3}\sqrt[3]{117}"),
    (r"(3, \frac{\pi}{2})", r"(3, \pi/2)"),
    (r"(-\infty, 2) \cup [3, \infty)", r"x \in [-2, 7]"),
    (r"\{1 \pm \sqrt{5}, -2\}", r"1 + \sqrt{5}, -2"),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & 1/2 \end{pmatrix}", r"\begin{bmatrix} 1 & 0 \\ 0 & 1 \end{bmatrix}"),
    ("y = 2x + 3", r"-2 \le x < 7"),
    (r"x^5 - 2x + 1", r"(x-1)(x^{2}+5_{7})"),
    (r"\cot x", r"\frac{\cos(x)}{\sin x}"),
    (r"137 \frac{1}{2}", r"6.72 \times 10^{-5}"),
]
_EXTRACTION = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]
_NOT_FINITE = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def judge(gold: str, extracted: str) -> str:
    """Compare an extracted answer with the gold one: 'correct', 'wrong', 'unparsed' or ``BAD_GOLD``."""
    parsed_gold = _parse_gold(gold)
    if not parsed_gold:
        return BAD_GOLD
    parsed = _parse(extracted)
    sympy.core.random.seed(SEED)
    # The option makes x > 5 and (5, oo) the same whichever of them is the gold answer.
    if parsed and math_verify.verify(parsed_gold, parsed, timeout_seconds=None, allow_set_relation_comp=True):
        return "correct"
    # Math-Verify adds the text itself as a last resort: text alone means that it could not be read as
    # mathematics.
    return "wrong" if any(not isinstance(item, str) for item in parsed) else "unparsed"


def parses(gold: str) -> bool:
    """Tell whether Math-Verify can read the gold answer."""
    return bool(_parse(gold))


@lru_cache(maxsize=256)  # the answers of a group share their gold
def _parse_gold(gold: str) -> list[Any]:
    return _parse(gold)


def _parse(answer: str) -> list[Any]:
    # Bare LaTeX is rejected for 18% of real golds, boxed for none. The library's own timeouts use SIGALRM,
    # which does not interrupt C code; the pool's limit replaces them.
    sympy.core.random.seed(SEED)
    return math_verify.parse(rf"\boxed{{{answer}}}", _EXTRACTION, parsing_timeout=None)


_equal_when_rounded = grader.sympy_numeric_eq
_equal_when_simplified = grader.sympy_symbolic_eq
_equal_when_solved = grader.sympy_solve_and_compare
_sign_of_number = sympy.Expr._eval_is_extended_positive_negative


def _equal_as_numbers(a: Any, b: Any, float_rounding: int, numeric_precision: int) -> bool:
    """Math-Verify's comparison, with the difference taken relative to the numbers.

    Its own drops differences below 1e-15 and rounds decimals to 6 places, so that 1/2^99 equals 1/2^98 and 0.0000001
    equals 0. It remains the first word: what it calls different stays so.
    """
    return _equal_when_rounded(a, b, float_rounding, numeric_precision) and not _differ(a, b)


def _equal_as_expressions(a: Any, b: Any) -> bool:
    """Math-Verify's comparison, which believes what SymPy concludes about the difference, confirmed by the values."""
    return _equal_when_simplified(a, b) and not _differ(a, b)


def _equal_as_equations(a: Any, b: Any, float_rounding: int, numeric_precision: int) -> bool:
    """Math-Verify's comparison of solutions, which takes all equations without any, such as x^2 = -1, for the same."""
    if not _equal_when_solved(a, b, float_rounding, numeric_precision):
        return False
    # Without solutions, one equation has to be a multiple of the other.
    return bool(sympy.solve(a, a.free_symbols)) or sympy.simplify((a.lhs - a.rhs) / (b.lhs - b.rhs)).is_number


def _differ(a: Any, b: Any) -> bool:
    try:
        difference = a - b
        if difference.has(sympy.UnevaluatedExpr):  # a percent sign, and 50% may stand for 50
            return False
        # Some point for the variables: what is equal is equal there.
        symbols = sorted(a.free_symbols | b.free_symbols, key=str)
        point = {symbol: sympy.Rational(7, 5 + i) for i, symbol in enumerate(symbols)}
        distance, *values = (expression.subs(point).evalf(30) for expression in (difference, a, b))
        if any(value.has(*_NOT_FINITE) for value in values):
            # With variables, the point may be a pole. The sign is lost in the value of -9*oo, when not evaluated.
            return not symbols and a.doit() != b.doit()
        tolerance = TOLERANCE_OF_DECIMALS if difference.has(sympy.Float) else TOLERANCE
        return bool(abs(distance) > tolerance * max(map(abs, values)))
    except (AttributeError, TypeError, ValueError):  # no number there, or a matrix
        return False


def _sign_unless_infinite(number: Any, positive: bool) -> bool | None:
    """SymPy's answer to whether a constant expression is positive, or negative, but None for infinite ones.

    Its own says of 14/3 - 9*oo, when not evaluated, that it is neither positive nor negative. Where SymPy happens to
    ask for both signs first, about once in a hundred times, it concludes that 9*oo equals 14/3.
    """
    sign = _sign_of_number(number, positive)
    return None if sign is False and number.evalf(2).has(*_NOT_FINITE) else sign


# Found by name wherever Math-Verify compares, so for the elements of sets and tuples too, and SymPy asks for a sign.
grader.sympy_numeric_eq = _equal_as_numbers
grader.sympy_symbolic_eq = _equal_as_expressions
grader.sympy_solve_and_compare = _equal_as_equations
sympy.Expr._eval_is_extended_positive_negative = _sign_unless_infinite

FUNCTIONS: dict[str, Callable[..., Any]] = {"judge": judge, "parses": parses}


def serve(descriptor: int, workers: int) -> None:
    """Answer requests from the connection until it closes or ``None`` arrives, then end every worker.

    A request is ``(number, function name, arguments, timeout)``; its reply is ``(number, kind, value)`` with
    kind 'done' (value: what the function returned), 'limit' (out of time or memory) or 'error' (value: a
    message). Replies come in the order of completion.
    """
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own timeouts are off
    connection = Connection(descriptor)
    # Workers inherit compiled patterns, what the parser has learnt of the grammar, and the modules that SymPy imports
    # only when it first simplifies a difference: on a busy machine each can take as long as a comparison may.
    for gold, answer in WARM_UP:
        judge(gold, answer)
    context = multiprocessing.get_context("fork")
    pool = ProcessPool(workers, TASKS_PER_WORKER, _limit_worker, (os.getpid(),), context)
    sending = threading.Lock()
    try:
        while (request := _receive(connection)) is not None:
            number, name, arguments, timeout = request
            future = pool.schedule(FUNCTIONS[name], args=arguments, timeout=timeout)
            future.add_done_callback(_replier(connection, sending, number))
    finally:
        pool.stop()
        pool.join()


def _receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):  # the caller ended, perhaps killed: nobody waits for answers
        return None


def _replier(connection: Connection, sending: threading.Lock, number: int) -> Callable[[ProcessFuture], None]:
    def reply(future: ProcessFuture) -> None:
        message = (number, *_outcome(future))
        with sending:
            try:
                connection.send(message)
            except (BrokenPipeError, ConnectionResetError):
                return  # the caller ended; the receiving loop notices and closes the pool

    return reply


def _outcome(future: ProcessFuture) -> tuple[str, Any]:
    if future.cancelled():
        return "error", "the comparison was cancelled"
    error = future.exception()
    if error is None:
        return "done", future.result()
    if isinstance(error, TimeoutError | MemoryError):
        return "limit", None
    if isinstance(error, ProcessExpired) and error.exitcode is not None and error.exitcode < 0:
        return "limit", None  # ended by a signal: stack overflow, or the system ran out of memory
    return "error", f"{type(error).__name__}: {error}"


def _limit_worker(server: int) -> None:
    # Pebble's own SIGTERM handler never runs inside C code; without it a stuck worker ends at once, not after
    # 3 s.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = ADDRESS_SPACE if hard == resource.RLIM_INFINITY else min(ADDRESS_SPACE, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # a stuck worker must not outlive a killed server
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(1)
