"""`sgpo strategies`: what is refused before the first request, and that the key is shown nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chat_server import ChatServer, Reply, Request, teacher
from extraction_cases import PROBLEMS, SECRET, extract, refusal

from sgpo.chat.journal import Journal
from sgpo.problems import load_problems

pytestmark = pytest.mark.usefixtures("strategies_environment")


Arguments = Callable[..., list[str]]


def test_bad_input_is_refused_in_one_line(
    problems_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"id": "a", "prompt": "1+1", "answer": "2", "response": ""}\n')
    with ChatServer(lambda request: Reply(status=404, content="no such model")) as server:
        ours = extract(server, problems_file)
        for arguments, message in (
            (extract(server, bare), "1 of 1 problems have no response (the first: id 'a')"),
            (extract(server, tmp_path / "no.jsonl"), "there is no file"),
            ([*ours, "--columns", "prompt=question"], "there is no column 'question'"),
            ([*ours, "--columns", "prompt"], "columns takes field=name"),
            ([*ours, "--output", str(problems_file)], "is the file of the problems"),
            ([*ours, "--output", "x.csv"], "written as .parquet or .jsonl"),
            ([*ours, "--output", str(problems_file / "x.parquet")], "problems.jsonl is no folder"),
            ([*ours, "--max-cost", "5"], "--max-cost needs --price-in and --price-out"),
            ([*ours, "--price-in", "5"], "belong together"),
            ([*ours, "--candidates", "0"], "candidates must be at least 1"),
            ([*ours, "--concurrency", "0"], "concurrency must be at least 1"),
            (
                [*ours, "--extra-body", '{"temperature": 0.5, "n": 3}'],
                "extra_body has n, temperature, which the command sends from options of their own: leave them out",
            ),
            ([*ours, "--extract-prompt", "none.txt"], "none.txt"),
            ([*ours, "--model", "stronk"], "does not answer for the model 'stronk'"),
            ([*ours, "--judge-model", "jugde"], "the server lists judge"),
            (extract("http://127.0.0.1:9/v1", problems_file), "no server answers at http://127.0.0.1:9/v1"),
            (extract(server.url.removesuffix("/v1"), problems_file), "check"),
            (extract("ftp://x", problems_file), "is no address"),
        ):
            assert message in refusal(arguments, capsys), message
            assert list(tmp_path.glob("**/*.journal.jsonl")) == []
        with Journal(tmp_path / "strategies.journal.jsonl"):
            assert "another process is writing the journal" in refusal(ours, capsys)
        monkeypatch.delenv("SGPO_API_KEY")
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        assert "set the environment variable" in refusal(extract("https://api.example.com/v1", problems_file), capsys)
        assert all(request.body["model"] in ("stronk", "jugde") for request in server.requests)


@pytest.mark.parametrize(("status", "message"), [(401, "does not accept the key"), (403, "HTTP 403: [key] is blocked")])
def test_a_wrong_key_is_refused_without_showing_it(
    status: int, message: str, problems_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    body = json.dumps({"error": {"message": f"{SECRET} is blocked"}})
    with ChatServer(lambda request: Reply(status=status, content=body), models=None) as server:
        assert message in refusal(extract(server, problems_file), capsys)
        assert len(server.requests) == 1
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_the_key_appears_nowhere(problems_file: Path, tmp_path: Path) -> None:
    """Also where the server repeats it in every error and every answer, and with the openai package's own log."""
    good = teacher(PROBLEMS)

    def script(request: Request) -> Reply:
        if PROBLEMS[1].prompt in request.text or request.attempt == 0:
            return Reply(status=500 if request.attempt == 0 else 400, content=f"who sent {SECRET}?")
        reply = good(request)
        return Reply([f"{text} {SECRET}" if "scores" not in text else text for text in reply.texts], reasoning=SECRET)

    with ChatServer(script) as server:
        environment = {**os.environ, "OPENAI_LOG": "debug"}
        command = [sys.executable, "-m", "sgpo", *extract(server, problems_file)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "HTTP 400: who sent [key]?" in Path("strategies.journal.jsonl").read_text() + str(
        load_problems("strategies.parquet")[1].extra["detail"]
    )
    assert SECRET not in result.stdout + result.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not any(SECRET.encode() in path.read_bytes() for path in files)
