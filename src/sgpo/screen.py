"""What a terminal shows of a command: its own lines and bars, not those of the libraries beneath.

    own_warnings       without --verbose: no deprecation warnings of other libraries
    no_progress_bars   nor their progress bars
    counted            how far something is: a bar in a terminal, now and then a line elsewhere

Warnings that say something about a run stay, whoever gives them; and so does the bar of a download from the Hub.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LIBRARIES = "transformers|datasets|torch|trl|accelerate|peft|huggingface_hub|tokenizers|vllm"
LINE_SECONDS = 30.0  # between lines of progress where the output is no terminal


def asks_for_everything(arguments: Sequence[str]) -> bool:
    """Whether a command line says --verbose, before it is parsed: what parses it may warn."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    return any(
        word == "--verbose" and following.lower() not in ("false", "no", "0")
        for word, following in zip(words, [*words[1:], ""], strict=True)
    )


@contextmanager
def own_warnings(*, everything: bool = False) -> Iterator[None]:
    """Deprecations are shown where a line of this package or the user's is meant, or as Python was told by -W."""
    with warnings.catch_warnings():
        if not everything and not sys.warnoptions:
            for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
                warnings.filterwarnings("ignore", category=category, module=rf"({LIBRARIES})\b")
        yield


@contextmanager
def no_progress_bars(*, everything: bool = False) -> Iterator[None]:
    """Imports what it silences, so it is for those who have it anyway."""
    if everything:
        yield
        return
    import datasets
    from transformers.utils import logging

    before = not datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        for shown, show in zip(before, (datasets.enable_progress_bars, logging.enable_progress_bar), strict=True):
            if shown:
                show()


class Meter:
    """How much of something is done, and how fast it was.

    Example: ``Meter(2_400, "completions")``, whose text after a while is
    ``489/2,400 completions, 45.1/s, 1.62k tokens/s, 42 s left``.

    Args:
        total: how much there is.
        unit: what is counted, in the plural.
        changed: called after each change.
        clock: in seconds.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        changed: Callable[[Meter], None] = lambda meter: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.unit = total, unit
        self.done, self.fresh, self.tokens = 0, 0, 0
        self._changed, self._clock = changed, clock
        self._began = clock()

    def known(self, count: int) -> None:
        """So many were there already, and took no time."""
        self.done += count
        self._changed(self)

    def add(self, count: int, tokens: int = 0) -> None:
        """So many more are done, after so many more tokens; either may be 0."""
        self.done += count
        self.fresh += count
        self.tokens += tokens
        self._changed(self)

    @property
    def seconds(self) -> float:
        return self._clock() - self._began

    @property
    def text(self) -> str:
        parts = [f"{self.done:,}/{self.total:,} {self.unit}"]
        seconds = max(self.seconds, 1e-3)
        if self.fresh:
            parts.append(rate(self.fresh / seconds))
        if self.tokens:
            parts.append(f"{amount(self.tokens / seconds)} tokens/s")
        if self.fresh and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) * seconds / self.fresh)} left")
        return ", ".join(parts)

    @property
    def summary(self) -> str:
        """What is said at the end."""
        unit = self.unit.removesuffix("s") if self.done == 1 else self.unit
        done = f"{self.done:,} {unit} in {duration(self.seconds)}"
        return done if self.fresh == self.done else f"{done}, {self.done - self.fresh:,} of them known before"


@contextmanager
def counted(
    title: str, total: int, unit: str, console: Console | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Meter]:
    """A meter that is shown on the error output for as long as the work lasts."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        with _lines(title, total, unit, console, clock) as meter:
            yield meter
        return
    columns = (TextColumn(title, markup=False), BarColumn(bar_width=16), TextColumn("{task.fields[text]}"))
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task("", total=total, text="")
        meter = Meter(total, unit, lambda meter: bar.update(task, completed=meter.done, text=meter.text), clock)
        yield meter
        bar.update(task, text=meter.summary)


@contextmanager
def _lines(title: str, total: int, unit: str, console: Console, clock: Callable[[], float]) -> Iterator[Meter]:
    last = clock()

    def say(text: str) -> None:
        console.print(f"{title}: {text}", highlight=False, markup=False, soft_wrap=True)

    def changed(meter: Meter) -> None:
        nonlocal last
        if clock() - last >= LINE_SECONDS:
            last = clock()
            say(meter.text)

    meter = Meter(total, unit, changed, clock)
    yield meter
    say(meter.summary)


def rate(a_second: float) -> str:
    """Example: ``45.1/s``, ``12.0/min``, ``3.0/h``"""
    for name, seconds in (("s", 1), ("min", 60)):
        if a_second * seconds >= 1:
            return f"{a_second * seconds:,.1f}/{name}"
    return f"{3600 * a_second:.1f}/h"


def duration(seconds: float) -> str:
    """Example: ``42 s``, ``3 min 05 s``, ``2 h 10 min``"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def amount(number: float) -> str:
    """Example: ``812``, ``1.62k``, ``3.40M``"""
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f}{name}"
    return f"{number:.0f}"
