"""The parser of the commands that take a configuration. It needs TRL, so it is imported once the keys are known."""

from __future__ import annotations

import re
from typing import NoReturn

from trl import TrlParser

# What argparse and transformers say of a value, and what is said here; the key is named as a configuration has it.
WORDS = {
    r"invalid int value: '(?P<value>.*)'": "{key} is {value!r}; it must be a whole number",
    r"invalid float value: '(?P<value>.*)'": "{key} is {value!r}; it must be a number",
    r"Truthy value expected: got (?P<value>.*) but expected .*": "{key} is {value!r}; it must be true or false",
    r"invalid choice: '(?P<value>.*)' \(choose from (?P<known>.*)\)": "{key} is {value!r}; choose one of {known}",
    r"expected one argument": "--{key} needs a value",
    r"expected at least one argument": "--{key} needs a value, or several",
}


class Parser(TrlParser):
    def error(self, message: str) -> NoReturn:
        """In place of pages of usage and an exit."""
        raise ValueError(error_in_words(message))


def error_in_words(message: str) -> str:
    """Example: ``argument --top_p/--top-p: invalid float value: 'x'`` becomes ``top_p is 'x'; it must be a number``"""
    found = re.fullmatch(r"argument --(\w+)[^:]*: (.*)", message, re.DOTALL)
    if found:
        for pattern, words in WORDS.items():
            if parts := re.fullmatch(pattern, found[2], re.DOTALL):
                values = parts.groupdict()
                values["known"] = values.get("known", "").replace("'", "")
                return words.format(key=found[1], **values)
    return message
