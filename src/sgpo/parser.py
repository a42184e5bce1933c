"""The parser of the commands that take a configuration. It needs TRL, so it is imported once the keys are known."""

from __future__ import annotations

from typing import NoReturn

from trl import TrlParser


class Parser(TrlParser):
    def error(self, message: str) -> NoReturn:
        """In place of pages of usage and an exit."""
        raise ValueError(message)
