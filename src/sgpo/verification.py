r"""Is the final answer of a response right?

The rules, in this order:

1. The answer is the content of the LAST BALANCED ``\boxed{...}``; no such box means 'unparsed'. Math-Verify's
   own extraction makes a set of two boxes, so that ``\boxed{7} ... \boxed{8}`` would not be 8.
2. Equal text after normalisation (spaces, ``\left``, ``\dfrac``, dollar signs, a final full stop) is
   'correct'.
3. Two plain numbers are compared exactly, as decimals.
4. Everything else goes to Math-Verify in a worker process with limits on time and memory
   (``sgpo.verification_worker`` says why). Exceeding either is 'timeout', except that Math-Verify itself
   takes some failed allocations for an answer that differs: those are 'wrong'.

Model text is only ever parsed, never evaluated. The worker pool starts with the first answer that needs it,
is shared by all threads, and ends with this process, also when this process is killed. A process forked from
this one starts its own.

What remains of Math-Verify's leniency: it accepts ``50\%`` for ``50``, ``5 cm`` for ``5 m`` and tiny
differences between expressions such as ``1/2^{99}`` and ``1/2^{98}``.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal

Status = Literal["correct", "wrong", "unparsed", "timeout"]

MAX_ANSWER_LENGTH = 2000  # characters; longer extracted answers are 'unparsed'
MAX_WORKERS = 8

_BAD_GOLD = "bad gold"  # sgpo.verification_worker.BAD_GOLD, whose module loads SymPy and is not imported here


@dataclass(frozen=True)
class Verdict:
    r"""The judgement of one response.

    ``status`` is 'correct', 'wrong', 'unparsed' (no balanced box, an empty or overlong one, or no mathematics
    in it) or 'timeout' (the comparison exceeded its time or memory). ``extracted`` is the text in the box.

    Example: ``Verdict(status="correct", extracted="\\frac{1}{2}")``
    """

    status: Status
    extracted: str | None

    @property
    def correct(self) -> bool:
        return self.status == "correct"


def verify(response: str, answer: str, *, timeout: float = 5.0) -> Verdict:
    """Judge one response against its gold answer; see ``verify_many``."""
    return verify_many([(response, answer)], timeout=timeout)[0]


def verify_many(pairs: Iterable[tuple[str, str]], *, timeout: float = 5.0) -> list[Verdict]:
    """Judge (response, gold answer) pairs and return their verdicts in the same order.

    ``timeout`` is in seconds, for each comparison. Raises ``ValueError`` for an empty gold answer or one that
    Math-Verify cannot parse (unless a response equals it as text), ``RuntimeError`` if verification itself
    fails.
    """
    _require_positive(timeout)
    decided = [_decide(response, answer) for response, answer in pairs]
    asked = {
        index: _ask("judge", (item.gold, item.extracted), timeout)
        for index, item in enumerate(decided)
        if isinstance(item, _Comparison)
    }
    return [
        _verdict(item, asked[index]) if isinstance(item, _Comparison) else item for index, item in enumerate(decided)
    ]


def check_gold(answer: str, *, timeout: float = 5.0) -> bool:
    """Tell whether a gold answer is of use: not empty, and parsed by Math-Verify within the limits."""
    _require_positive(timeout)
    gold = _gold_text(answer)
    if not gold:
        return False
    if _number(normalise(gold)) is not None:
        return True
    kind, value = _ask("parses", (gold,), timeout).result()
    return kind == "done" and value


# ---------------------------------------------------------------------- reading answers

# A backslash hides the next character: \{ and \} are printed braces, not groups.
_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last balanced ``\boxed{...}``, None without one.

    Of nested boxes the outer one counts; a box that never closes does not.
    """
    opened: list[int | None] = []  # for each open brace: where the content begins, None if it is no box
    content: tuple[int, int] | None = None
    for token in _BOX_TOKEN.finditer(text):
        symbol = token.group()
        if symbol == "}":
            start = opened.pop() if opened else None
            if start is not None:
                content = (start, token.start())
        elif symbol == "{":
            opened.append(None)
        elif symbol.endswith("{") and len(symbol) > 2:
            opened.append(token.end())
    return None if content is None else text[content[0] : content[1]]


_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_TEXT_BOX = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\{([^{}\\$]*)\}")
_NOTHING = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|(?<!\\)\\!")
_SPACE = re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad(?![a-zA-Z]))|~|\s+")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_FULL_STOP = re.compile(r"(?<!\.)\.$")  # not the last of three dots
_NUMBER = re.compile(r"[+-]?(?:(?:[0-9]{1,3}(?:[, ][0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")


def normalise(answer: str) -> str:
    """Return the answer without what does not change its meaning: equal results mean equal answers."""
    text = _without_delimiters(_FULL_STOP.sub("", answer.strip()))
    if whole := _TEXT_BOX.fullmatch(text):
        text = whole.group(1)
    text = _NOTHING.sub("", text.replace("\N{MINUS SIGN}", "-").replace("{,}", ","))
    text = _FRACTION.sub(r"\\frac", text)
    text = re.sub(" +", " ", _SPACE.sub(" ", text)).strip()
    text = _FULL_STOP.sub("", text)  # once more: it may have stood inside the delimiters
    # A space between two letters or digits stays: "1 2" is not 12, and \pi r is not \pir.
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", text)


def _without_delimiters(answer: str) -> str:
    text = answer.strip()
    for opening, closing in _DELIMITERS:
        long_enough = len(text) > len(opening) + len(closing)
        if long_enough and text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : -len(closing)]
            if closing not in inner and not inner.endswith("\\"):
                text = inner.strip()
    return text


def _number(normalised: str) -> Decimal | None:
    if not _NUMBER.fullmatch(normalised):
        return None
    return Decimal(normalised.replace(",", "").replace(" ", ""))


def _gold_text(answer: str) -> str:
    boxed = last_boxed(answer)
    return _without_delimiters(answer if boxed is None else boxed)


# ---------------------------------------------------------------------------------------------- judging


@dataclass(frozen=True)
class _Comparison:
    """A pair that text and numbers do not decide."""

    gold: str
    extracted: str


def _decide(response: str, answer: str) -> Verdict | _Comparison:
    gold = _gold_text(answer)
    if not gold:
        raise ValueError(f"the gold answer {answer!r} is empty: give every problem an answer, or leave it out")
    extracted = last_boxed(response)
    if extracted is None or len(extracted) > MAX_ANSWER_LENGTH:
        return Verdict("unparsed", None)
    left, right = normalise(extracted), normalise(gold)
    if not left:
        return Verdict("unparsed", extracted)
    if left == right:
        return Verdict("correct", extracted)
    left_number, right_number = _number(left), _number(right)
    if left_number is not None and right_number is not None:
        return Verdict("correct" if left_number == right_number else "wrong", extracted)
    return _Comparison(gold, extracted)


def _verdict(item: _Comparison, asked: Future[tuple[str, Any]]) -> Verdict:
    kind, value = asked.result()
    if kind == "limit":
        return Verdict("timeout", item.extracted)
    if kind == "error":
        raise RuntimeError(f"comparing {item.extracted!r} with the gold answer {item.gold!r} failed: {value}")
    if value == _BAD_GOLD:
        raise ValueError(
            f"the gold answer {item.gold!r} cannot be parsed by Math-Verify: correct it or leave the problem "
            "out; sgpo.verification.check_gold(answer) finds such answers beforehand"
        )
    return Verdict(value, item.extracted)


def _require_positive(timeout: float) -> None:
    if not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")


# ---------------------------------------------------------------------- the shared pool

_START = "import sys; from sgpo.verification_worker import serve; serve(int(sys.argv[1]), int(sys.argv[2]))"


class _Server:
    """The process that runs the worker pool, and the thread that hands its replies to whoever asked."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        self.process = _start_process(theirs)
        theirs.close()
        self.ended = False
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[tuple[str, Any]]] = {}
        threading.Thread(target=self._read_replies, name="sgpo-verification", daemon=True).start()

    def ask(self, function: str, arguments: tuple[str, ...], timeout: float) -> Future[tuple[str, Any]]:
        future: Future[tuple[str, Any]] = Future()
        with self._lock:
            if self.ended:
                raise RuntimeError("the verification process has ended")
            number = next(self._numbers)
            self._waiting[number] = future
            self._send((number, function, arguments, timeout))
        return future

    def close(self) -> None:
        with self._lock:
            if not self.ended:
                self._send(None)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its workers end with it
            self.process.wait()

    def _send(self, message: object) -> None:
        # When the process has just died, the reading thread finds out and tells everyone who waits.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def _read_replies(self) -> None:
        while True:
            try:
                number, kind, value = self.connection.recv()
            except (EOFError, ConnectionResetError):
                break
            with self._lock:
                future = self._waiting.pop(number)
            future.set_result((kind, value))
        with self._lock:
            self.ended = True
            abandoned = list(self._waiting.values())
            self._waiting.clear()
            self.connection.close()
        for future in abandoned:
            message = "the verification process ended while answers were being compared; its error output says why"
            future.set_exception(RuntimeError(message))


def _start_process(connection: Connection) -> subprocess.Popen[bytes]:
    # The same import path as here, as multiprocessing would give it; -P keeps the working directory out
    # unless it is on that path. A session of its own, so that Ctrl-C reaches the caller only, which then
    # closes the pool.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = [sys.executable, "-P", "-c", _START, str(connection.fileno()), str(_worker_count())]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        pass_fds=[connection.fileno()],
        start_new_session=True,
    )


def _worker_count() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Under torchrun each process on this machine has a pool of its own.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MAX_WORKERS, cores // processes))


_server: _Server | None = None
_server_lock = threading.Lock()


def _ask(function: str, arguments: tuple[str, ...], timeout: float) -> Future[tuple[str, Any]]:
    global _server
    with _server_lock:
        if _server is None or _server.ended:
            _server = _Server()
        return _server.ask(function, arguments, timeout)


def close_pool() -> None:
    """End the worker processes, if any; the next comparison starts new ones. Called at exit by itself."""
    global _server
    with _server_lock:
        server, _server = _server, None
    if server is not None:
        server.close()


def _forget_server() -> None:
    global _server, _server_lock
    _server, _server_lock = None, threading.Lock()


atexit.register(close_pool)
os.register_at_fork(after_in_child=_forget_server)
