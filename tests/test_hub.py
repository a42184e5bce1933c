"""Names of the Hub where there is no network: what is in the cache is used, the rest refused without waiting."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import datasets
import pytest
from huggingface_hub import constants

from sgpo.cli import main
from sgpo.evaluation.arguments import EvalArguments
from sgpo.evaluation.benchmarks import find_set
from sgpo.evaluation.models import Model
from sgpo.hub import commit_of, hub_or_cache, out_of_reach
from sgpo.models.checkpoint import open_checkpoint
from sgpo.models.weights import load_weights
from sgpo.problems import load_problems

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = "http://127.0.0.1:9"
REASON = f"it is not in the cache, and {NOWHERE} is not asked ([Errno 111] Connection refused); check the connection"


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which nobody answers, an empty cache, and no patience."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", NOWHERE)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"{seconds} s were waited"))


@contextmanager
def answering(status: int | None) -> Iterator[str]:
    """A server that answers everything with a status, or closes the connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if status is not None:
                self.send_response(status)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_that_cannot_be_had(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="the model 'someone/model' is no folder here, and cannot be read") as caught:
        open_checkpoint("someone/model")
    assert REASON in str(caught.value)
    assert not constants.HF_HUB_OFFLINE
    assert main(["eval", "--model", "someone/model", "--benchmarks", "miniworld/dev"]) == 2
    assert REASON in capsys.readouterr().err


def test_a_data_set_that_cannot_be_had(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="'someone/data' is no file here, and cannot be read from the Hub") as caught:
        load_problems("someone/data")
    assert REASON in str(caught.value)
    assert not datasets.config.HF_HUB_OFFLINE
    with pytest.raises(ValueError, match=r"aime24 cannot be read from the Hub .* give a folder .* data_dir") as caught:
        find_set("aime24", None, load_problems)
    assert REASON in str(caught.value)
    for command in (["sft", "--output_dir", "run"], ["train", "--output_dir", "run"], ["eval"]):
        assert main([*command, "--model", str(checkpoint), "--problems", "someone/data"]) == 2
        assert REASON in capsys.readouterr().err
    assert main(["strategies", "show", "someone/data"]) == 2
    assert REASON in capsys.readouterr().err


def test_where_the_user_says_so_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("sgpo.hub.out_of_reach", lambda address: pytest.fail("the Hub was asked"))
    with pytest.raises(ValueError, match=r"is not asked \(the variable HF_HUB_OFFLINE is set\)"):
        load_problems("someone/data")


def test_what_is_in_the_cache_is_used(checkpoint: Path, tmp_path: Path) -> None:
    cached = tmp_path / "cache" / "models--someone--model"
    shutil.copytree(checkpoint, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    config, tokenizer = open_checkpoint("someone/model")
    assert config.vocab_size >= len(tokenizer)
    assert Model(EvalArguments(model="someone/model")).revision == commit_of("someone/model") == COMMIT
    assert commit_of("someone/other") is None
    own = load_weights(str(checkpoint)).state_dict()
    assert all(own[name].equal(weight) for name, weight in load_weights("someone/model").state_dict().items())


def test_errors_that_are_the_hubs_or_the_users_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: Exception, *, offline: bool) -> None:
        with hub_or_cache():
            assert constants.HF_HUB_OFFLINE == datasets.config.HF_HUB_OFFLINE == offline
            raise error

    with pytest.raises(KeyError, match="mine"):
        failing(KeyError("mine"), offline=True)
    with answering(503) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with pytest.raises(FileNotFoundError, match="mine"):
            failing(FileNotFoundError("mine"), offline=False)


def test_out_of_reach_is_where_nothing_answers() -> None:
    for status in (200, 404, 503):
        with answering(status) as address:
            assert out_of_reach(address) is None
    with answering(None) as address:
        assert out_of_reach(address) is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert out_of_reach(f"http://127.0.0.1:{port}") == "[Errno 111] Connection refused"
    assert "not known" in str(out_of_reach("http://no-such-host.invalid"))
