"""`push_to_hub`: whether the Hub will take a model, asked before its weights are loaded; and a push that failed.

Trainer makes the repository once the weights are loaded, and finds out with the first commit, after training, that it
may not write.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from sgpo.errors import UnfinishedError, first_line
from sgpo.hub import out_of_reach
from sgpo.runs.checkpoints import UNFINISHED

LOG_IN = "log in with `hf auth login`, set HF_TOKEN, or give --hub_token"
# HTTPError of httpx or httpx2, on whichever huggingface_hub stands here; that of no connection, too.
HTTP_ERROR: type[Any] = HfHubHTTPError.__bases__[0]
REFUSED = (HTTP_ERROR, LocalTokenNotFoundError, OfflineModeIsEnabled)
NOT_PUSHED = ("_*", "checkpoint-*", f"{UNFINISHED}/*")


class PushError(UnfinishedError):
    """The Hub did not take a model; the message says where it is, and how to push it later."""


def check_push(args: Any) -> None:
    """Refuse a push that cannot succeed, as far as that is known before training. The first process asks the Hub.

    Args:
        args: `transformers.TrainingArguments`.

    Raises:
        ValueError: a name that no repository can have, no connection, no token or one that is refused or may only
            read, or a namespace that is not the token's.
    """
    if not args.push_to_hub or args.process_index:
        return
    name = _checked_name(args)
    if constants.HF_HUB_OFFLINE:
        raise ValueError(f"push_to_hub: the Hub is not asked, since HF_HUB_OFFLINE is set; {_later(args, name)}")
    if reason := out_of_reach(constants.ENDPOINT):
        raise ValueError(f"push_to_hub: {constants.ENDPOINT} cannot be reached ({reason}); {_later(args, name)}")
    if (args.hub_token or get_token()) is None:
        raise ValueError(f"push_to_hub: there is no token for the Hub; {LOG_IN}")
    try:
        account = HfApi().whoami(args.hub_token)
    except REFUSED as error:
        raise ValueError(f"push_to_hub: {reason_of(error)}") from error
    _check_rights(account, name)


def repository_of(args: Any) -> str:
    """Trainer's rule: ``hub_model_id``, or else the name of the run's folder."""
    return args.hub_model_id or Path(args.output_dir).absolute().name


def _checked_name(args: Any) -> str:
    name = repository_of(args)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        what = "hub_model_id" if args.hub_model_id else "push_to_hub: the name of output_dir"
        raise ValueError(
            f"{what} is {name!r}, which no repository can have; write --hub_model_id NAME or ORGANISATION/NAME, of at "
            "most 96 letters, digits, '-', '_' and '.', without '--' and '..', not ending in .git"
        ) from error
    return name


def _check_rights(account: dict[str, Any], name: str) -> None:
    """Args: account: as `HfApi.whoami` returns it."""
    user, groups = account["name"], [each["name"] for each in account.get("orgs", [])]
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ValueError(
            f"push_to_hub: the token of {user} may only read; make one that may write at "
            f"{constants.ENDPOINT}/settings/tokens, and {LOG_IN}"
        )
    namespace = name.split("/")[0] if "/" in name else user
    if namespace.lower() not in (each.lower() for each in (user, *groups)):
        raise ValueError(
            f"hub_model_id is {name}, and {user} may not write to {namespace}; write one of "
            f"{', '.join(f'{each}/...' for each in (user, *groups))}, or log in as somebody who may"
        )


def _later(args: Any, name: str) -> str:
    return f"check the connection, or leave push_to_hub out and push the model later: {command_to_push(args, name)}"


def command_to_push(args: Any, name: str) -> str:
    """What is typed to push the folder of a run as Trainer does."""
    revision = ["--revision", args.hub_revision] if args.hub_revision else []
    private = ["--private"] if args.hub_private_repo else []
    left_out = [word for pattern in NOT_PUSHED for word in ("--exclude", pattern)]
    return shlex.join(["hf", "upload", name, str(args.output_dir), ".", *private, *revision, *left_out])


def reason_of(error: BaseException) -> str:
    """Why the Hub did not do it, and what helps."""
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token for the Hub; {LOG_IN}"
    if not isinstance(error, HfHubHTTPError):
        return f"{constants.ENDPOINT} cannot be reached ({first_line(error)}); check the connection"
    status, said = error.response.status_code, error.server_message or first_line(error)
    if status == 401:
        return f"the Hub refuses the token (401); make a new one at {constants.ENDPOINT}/settings/tokens, and {LOG_IN}"
    if status in (403, 404):
        return f"the token has no right to write there ({status}: {said}); take one that has, and {LOG_IN}"
    passing = "; try again later" if status == 429 or status >= 500 else ""
    return f"the Hub answers with {status} ({said}){passing}"


@contextmanager
def refused_repository(name: str) -> Iterator[None]:
    """Raises ValueError where the repository could not be made."""
    try:
        yield
    except REFUSED as error:
        raise ValueError(f"push_to_hub: there is no repository {name}: {reason_of(error)}") from error


@contextmanager
def refused_push(args: Any, name: str) -> Iterator[None]:
    """Raises PushError where the folder of a run, which is complete, could not be pushed."""
    try:
        yield
    except REFUSED as error:
        raise PushError(
            f"the model is in {args.output_dir}, and was not pushed: {reason_of(error)}. Push it later with\n"
            f"  {command_to_push(args, name)}"
        ) from error


def say_failed(pushes: Any) -> None:
    """Of checkpoints, which are pushed beside the training.

    Args:
        pushes: `transformers.utils.PushInProgress`, or None.
    """
    for job in [] if pushes is None else pushes.jobs:
        if job.done() and not job.cancelled() and (error := job.exception()) is not None:
            print(f"push_to_hub: a checkpoint was not pushed ({reason_of(error)}); training goes on", flush=True)
            return
