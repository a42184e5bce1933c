"""The verifier judges ordinary answers rightly and survives the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sgpo.verification import Verdict, check_gold, last_boxed, normalise, pool, verify, verify_many

TOWER = r"\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{7} or rather \boxed{8}.", "8"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\left\{ 1, 2 \right\}}", r"\left\{ 1, 2 \right\}"),
        (r"\boxed{\{1}", r"\{1"),
        (r"\boxed{x = \boxed{7}}", r"x = \boxed{7}"),
        (r"\boxed{7} and then \boxed{8", "7"),
        (r"a set {1, 2 and \boxed {3}", "3"),
        (r"} \fbox{4}", "4"),
        (r"\boxed 7", None),
        ("no box", None),
        (r"\boxed{" * 50_000, None),
    ],
)
def test_last_balanced_box(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        (r" $\dfrac{1}{2}$. ", r"\frac{1}{2}"),
        (r"$\dfrac{1}{2}$", r"\frac{1}{2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"1,\!234", "1,234"),
        (r"\text{Monday}", "Monday"),
        ("1 2", "1 2"),
        (r"2 \pi r", r"2\pi r"),
        ("x + 1", "x+1"),
        ("0.333...", "0.333..."),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\leftarrow", r"\leftarrow"),
    ],
)
def test_normalise(answer, normalised):
    assert normalise(answer) == normalised


@pytest.mark.parametrize(
    ("answer", "gold", "status"),
    [
        ("204", r"\boxed{204}", "correct"),
        ("-7", "\N{MINUS SIGN}7", "correct"),
        ("007", "7", "correct"),
        ("2.50", "2.5", "correct"),
        (".5", "0.5", "correct"),
        ("1,234", "1234", "correct"),
        (r"12{,}345", "12345", "correct"),
        (r"1\,000\,000", "1000000", "correct"),
        ("8", "7", "wrong"),
        ("0.3333333333333333", "0.3333333333333334", "wrong"),
        ("9" * 500, "9" * 499 + "8", "wrong"),
        ("9" * 501, "9" * 501, "unparsed"),
        (" ", "7", "unparsed"),
    ],
)
def test_text_and_numbers_need_no_process(monkeypatch, answer, gold, status):
    def refuse(*_):
        raise AssertionError("a process was asked")

    monkeypatch.setattr(pool, "ask", refuse)
    assert verify(rf"\boxed{{{answer}}}", gold).status == status


@pytest.mark.parametrize(
    ("answer", "gold", "status"),
    [
        ("0.5", r"\frac{1}{2}", "correct"),
        (r"\frac{2}{4}", r"\frac12", "correct"),
        ("x=3", "3", "correct"),
        (r"\{2, 1\}", r"\{1, 2\}", "correct"),
        (r"\sqrt{8}", r"2\sqrt{2}", "correct"),
        ("p - q", "q - p", "wrong"),
        (r"\frac{1}{3}", r"\frac{1}{2}", "wrong"),
        (r"(2, 1)", "(1, 2)", "wrong"),
        ("1 2", "12", "wrong"),
        (r"\frac{}{}", "3", "unparsed"),
        ("__import__('os').abort()", "3", "unparsed"),
        ("\x00\x1b[2J", "3", "unparsed"),
    ],
)
def test_math_verify_decides_the_rest(answer, gold, status):
    assert verify(rf"\boxed{{{answer}}}", gold) == Verdict(status, answer)


def test_two_boxes_are_not_a_set():
    assert verify(r"\boxed{7} ... no, \boxed{\frac{16}{2}}", "8").correct
    assert verify(r"\boxed{8} ... no, \boxed{\frac{14}{2}}", "8").status == "wrong"


def test_bare_latex_golds_are_wrapped():
    # Bare, Math-Verify parses none of these to what its boxed form means.
    golds = [r"\frac{\pi}{2}", r"(-\infty, 3) \cup (5, \infty)", r"3\sqrt{13}", r"x^2 + 2x + 1"]
    rewritten = [r"\pi/2", r"(-\infty, 3) \cup (5, \infty) ", r"\sqrt{117}", "(x+1)^2"]
    pairs = [(rf"\boxed{{{text}}}", gold) for text, gold in zip(rewritten, golds, strict=True)]
    assert [verdict.status for verdict in verify_many(pairs)] == ["correct"] * 4


def test_hanging_answer_times_out_and_the_next_is_judged():
    start = time.monotonic()
    verdicts = verify_many(
        [(rf"\boxed{{{TOWER}}}", "4"), (r"\boxed{\frac{1}{2}}", "0.5"), (rf"\boxed{{{TOWER}}}", "5")],
        timeout=2,
    )
    assert [verdict.status for verdict in verdicts] == ["timeout", "correct", "timeout"]
    assert verify(r"\boxed{\frac{3}{4}}", "0.75").correct
    assert time.monotonic() - start < 15


def test_order_is_kept():
    pairs = [(rf"\boxed{{\frac{{{2 * n}}}{{2}}}}", str(n + n % 2)) for n in range(20)]
    expected = ["correct", "wrong"] * 10
    assert [verdict.status for verdict in verify_many(pairs)] == expected
    assert verify_many([]) == []


def test_several_threads_share_the_pool():
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda n: verify(rf"\boxed{{\frac{{{n}}}{{4}}}}", str(n / 4)), range(24)))
    assert [verdict.status for verdict in verdicts] == ["correct"] * 24


def test_golds_are_checked():
    assert check_gold("7")
    assert check_gold(r"\left( 3, \frac{\pi}{2} \right)")
    assert not check_gold("}{")
    assert not check_gold(" ")
    with pytest.raises(ValueError, match=r"gold answer '}{' cannot be parsed"):
        verify(r"\boxed{x+1}", "}{")
    with pytest.raises(ValueError, match="is empty"):
        verify(r"\boxed{7}", " ")
    with pytest.raises(ValueError, match="timeout must be a positive"):
        verify(r"\boxed{7}", "7", timeout=0)


def test_a_killed_verification_process_raises_and_is_replaced():
    assert verify(r"\boxed{\frac12}", "0.5").correct
    server = pool._server
    assert server is not None
    asked = pool.ask("judge", ("4", TOWER), 60)
    os.kill(server.process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="the verification process ended"):
        asked.result(timeout=10)
    assert verify(r"\boxed{\frac12}", "0.5").correct


SCRIPT = r"""
import sys
from sgpo.verification import pool
print(verification.verify(r"\boxed{\frac{1}{2}}", "0.5").status, "torch" in sys.modules, flush=True)
print(pool._server.process.pid, flush=True)
"""


def test_script_without_a_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    status, server = result.stdout.splitlines()
    assert status == "correct False"
    assert result.stderr == ""
    assert _group_members(int(server)) == []


def test_no_process_outlives_a_killed_caller(tmp_path):
    script = tmp_path / "script.py"
    hang = f"verify(r'\\boxed{{{TOWER}}}', '4', timeout=600)\n"
    script.write_text(SCRIPT + hang)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "correct False\n"
        server = int(process.stdout.readline())
        time.sleep(0.5)
        assert len(_group_members(server)) > 1  # the server and its workers
        process.kill()
    deadline = time.monotonic() + 10
    while _group_members(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _group_members(server) == []


def _group_members(leader: int) -> list[int]:
    """The living processes of a process group; the verification process leads its own."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(") ")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while being looked at
        if int(group) == leader and state != "Z":
            members.append(int(stat.parent.name))
    return members


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_forked_process_starts_its_own_pool():
    assert verify(r"\boxed{\frac12}", "0.5").correct
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if verify(r"\boxed{\frac34}", "0.75").correct else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert verify(r"\boxed{\frac12}", "0.5").correct
