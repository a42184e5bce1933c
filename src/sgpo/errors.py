"""The errors that end a command with a message in place of a traceback.

Commands raise them, and `sgpo.cli.main` alone prints them and returns their exit status. An exception of any other type
is a bug, and travels with its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class ReportedError(Exception):
    """Ends a command; the message says to the user why, and what to do."""

    exit_status = 1


class UsageError(ReportedError):
    """Input that cannot be worked with: one line, or a list of them."""

    exit_status = 2


class UnfinishedError(ReportedError):
    """A command that ended early; the message says how to go on."""


def first_line(error: BaseException) -> str:
    """What an error says, without what some libraries write below it; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def usage_errors() -> Iterator[None]:
    """While a command reads its input, a ValueError or something missing is the user's to mend, without a traceback."""
    try:
        yield
    except ReportedError:  # some are ValueErrors or OSErrors as well
        raise
    except (ValueError, OSError) as error:  # transformers says a missing checkpoint as OSError
        raise UsageError(str(error)) from error


class EngineError(UnfinishedError):
    """The sampling engine failed, or did not answer in time; the cause is in the message and in ``__cause__``."""


class RefusalsError(ValueError):
    """Several things that cannot work, each with its remedy, in one message."""

    def __init__(self, messages: Sequence[str]) -> None:
        self.messages = list(messages)
        shown = "".join(f"\n  {number}. {message}" for number, message in enumerate(self.messages, start=1))
        super().__init__(f"{len(self.messages)} things cannot work:{shown}")


class Refusals:
    """What cannot work, collected as far as one thing does not depend on another, so that all is mended at one go.

    Example::

        refusals = Refusals()
        with refusals.collected():
            check_model(config, tokenizer)
        with refusals.collected():
            check_trackers(args.report_to)
        refusals.refuse()
    """

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    def __bool__(self) -> bool:
        return bool(self._errors)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """A refusal raised in here, ValueError or OSError, ends the block alone."""
        try:
            yield
        except ReportedError:
            raise
        except (ValueError, OSError) as error:
            self._errors.append(error)

    def add(self, messages: Iterable[str]) -> None:
        self._errors += [ValueError(message) for message in messages]

    def refuse(self) -> None:
        """Raises the refusal if there is one, and a `RefusalsError` if there are several; else nothing."""
        parts = [each.messages if isinstance(each, RefusalsError) else [str(each)] for each in self._errors]
        messages = list(dict.fromkeys(message for part in parts for message in part))
        if len(messages) > 1:
            raise RefusalsError(messages)
        if messages:
            raise self._errors[0]


class StopHere(Exception):  # noqa: N818 - no error; it never leaves the trainer
    """Raised where training may stop: all updates so far are those of complete rollout batches."""


class NoSpaceError(UnfinishedError, OSError):
    """The device ran full while a run was writing."""

    def __str__(self) -> str:
        """The message alone, without the number."""
        return str(self.strerror)
