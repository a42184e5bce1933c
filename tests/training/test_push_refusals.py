"""A Hub that takes no push: what can be known is said before weights are loaded, the rest once the model is safe."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import Hub
from huggingface_hub import constants

from sgpo.training.push import PushError, check_push, command_to_push, refused_push, say_failed

NOWHERE = "http://127.0.0.1:9"
LOG_IN = "log in with `hf auth login`, set HF_TOKEN, or give --hub_token"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub().serving() as served:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield served


def options(**changes: Any) -> Any:
    values = {"push_to_hub": True, "process_index": 0, "output_dir": "runs/first", "hub_model_id": "me/shared"}
    more = {"hub_token": "hf_secret", "hub_revision": None, "hub_private_repo": None}
    return SimpleNamespace(**{**values, **more, **changes})


def said(**changes: Any) -> str:
    with pytest.raises(ValueError, match=r"push_to_hub|hub_model_id") as caught:
        check_push(options(**changes))
    return str(caught.value)


def test_what_the_hub_takes_is_asked_for_once_by_one_process(hub: Hub) -> None:
    def asked() -> list[str]:
        """Beside what huggingface_hub asks for on its own account."""
        return [each for each in hub.asked if each in ("HEAD /", "GET /api/whoami-v2") or "repos" in each]

    check_push(options())
    assert asked() == ["HEAD /", "GET /api/whoami-v2"]
    hub.account["orgs"] = [{"name": "Acme"}]
    check_push(options(hub_model_id="acme/shared"))
    check_push(options(hub_model_id=None))  # the folder's name
    assert len(asked()) == 6
    check_push(options(push_to_hub=False, hub_model_id="no name"))
    check_push(options(process_index=1, hub_model_id="no name"))
    assert len(asked()) == 6


@pytest.mark.parametrize("name", ["a/b/c", "me/two words", "me/two--hyphens", "me/x.git", "me/" + "x" * 97])
def test_a_name_that_no_repository_can_have(hub: Hub, name: str) -> None:
    assert said(hub_model_id=name).startswith(f"hub_model_id is {name!r}, which no repository can have; write ")
    assert hub.asked == []


def test_a_folder_whose_name_no_repository_can_have(hub: Hub) -> None:
    assert said(hub_model_id=None, output_dir="runs/my run").startswith(
        "push_to_hub: the name of output_dir is 'my run', which no repository can have; write --hub_model_id NAME"
    )


def test_a_token_that_is_none_or_refused_or_may_not_write(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(hub_token=None) == f"push_to_hub: there is no token for the Hub; {LOG_IN}"
    hub.refusals["/api/whoami-v2"] = (401, "Invalid credentials in Authorization header")
    settings = f"{hub.address}/settings/tokens"
    refused = f"push_to_hub: the Hub refuses the token (401); make a new one at {settings}, and {LOG_IN}"
    assert said() == refused
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert said(hub_token=None) == refused
    hub.refusals["/api/whoami-v2"] = (503, "Maintenance")
    assert said() == "push_to_hub: the Hub answers with 503 (Maintenance); try again later"
    hub.refusals.clear()
    hub.account["auth"] = {"accessToken": {"role": "read"}}
    assert said() == (
        f"push_to_hub: the token of me may only read; make one that may write at {settings}, and {LOG_IN}"
    )
    hub.account["auth"] = {"accessToken": {"role": "write"}}
    hub.account["orgs"] = [{"name": "acme"}]
    assert said(hub_model_id="other/shared") == (
        "hub_model_id is other/shared, and me may not write to other; write one of me/..., acme/..., or log in as "
        "somebody who may"
    )


@pytest.mark.usefixtures("hub")
def test_without_a_network_the_way_to_push_later_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"{seconds} s were waited"))
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    way = (
        "check the connection, or leave push_to_hub out and push the model later: hf upload me/shared runs/first . "
        "--exclude '_*' --exclude 'checkpoint-*' --exclude 'unfinished/*'"
    )
    assert said() == f"push_to_hub: {NOWHERE} cannot be reached ([Errno 111] Connection refused); {way}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert said() == f"push_to_hub: the Hub is not asked, since HF_HUB_OFFLINE is set; {way}"


def test_the_command_pushes_what_trainer_would(hub: Hub, tmp_path: Path) -> None:
    """The words of the command as huggingface_hub understands them, against the Hub here."""
    from huggingface_hub import HfApi

    for name in ("model.safetensors", "README.md", "checkpoint-2/model.safetensors", "unfinished/x", "_private"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(name)
    words = command_to_push(options(output_dir=tmp_path / "run", hub_private_repo=True, hub_revision="v1"), "me/shared")
    assert words.startswith(f"hf upload me/shared {tmp_path / 'run'} . --private --revision v1 --exclude '_*' ")
    left_out = [word.strip("'") for word in words.split(" --exclude ")[1:]]
    HfApi().create_repo("me/shared", token="hf_secret")
    HfApi().upload_folder(
        repo_id="me/shared", folder_path=tmp_path / "run", ignore_patterns=left_out, token="hf_secret"
    )
    _, files = hub.files("me/shared", "main") or ("", {})
    assert files.keys() == {"model.safetensors", "README.md"}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (403, "the token has no right to write there (403: not yours); take one that has, and " + LOG_IN),
        (413, "the Hub answers with 413 (not yours)"),
    ],
)
def test_a_commit_that_is_refused_says_where_the_model_is(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, reason: str
) -> None:
    from huggingface_hub import HfApi

    (tmp_path / "README.md").write_text("card")
    hub.repositories["me/shared"] = {"0" * 40: {}}
    hub.refusals["/api/models/me/shared/commit/.*"] = (status, "not yours")
    args = options(output_dir=tmp_path)
    with pytest.raises(PushError) as caught, refused_push(args, "me/shared"):
        HfApi().upload_folder(repo_id="me/shared", folder_path=tmp_path, token="hf_secret")
    assert str(caught.value) == (
        f"the model is in {tmp_path}, and was not pushed: {reason}. Push it later with\n"
        f"  {command_to_push(args, 'me/shared')}"
    )
    assert caught.value.exit_status == 1
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    with (
        pytest.raises(PushError, match=rf"{NOWHERE} cannot be reached \(.*refused\); check the connection. Push it"),
        refused_push(args, "me/shared"),
    ):
        HfApi().whoami("hf_secret")


def test_a_checkpoint_that_was_not_pushed_is_said_once(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    from concurrent.futures import Future

    from huggingface_hub import HfApi

    hub.refusals["/api/repos/create"] = (403, "not yours")
    with pytest.raises(OSError, match="403") as caught:
        HfApi().create_repo("me/shared", token="hf_secret")
    done, failed, running = (Future[None]() for _ in range(3))
    done.set_result(None)
    failed.set_exception(caught.value)
    say_failed(None)
    say_failed(SimpleNamespace(jobs=[done, running]))
    assert capsys.readouterr().out == ""
    say_failed(SimpleNamespace(jobs=[running, failed, failed]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("push_to_hub: a checkpoint was not pushed (the token has no right to write there (403")
    assert lines[0].endswith("; training goes on")
