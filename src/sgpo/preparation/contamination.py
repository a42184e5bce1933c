"""Problems that a benchmark has too: by equal normalised text, or by a run of words in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sgpo.preparation.dropped import Dropped, on_one_line
from sgpo.preparation.sources import Found
from sgpo.problems.texts import text_key, words_of

WORDS = 13  # in a row


@dataclass
class Benchmarks:
    """The problems that must not be trained on.

    Example::

        benchmarks = Benchmarks(words=13)
        benchmarks.add("aime24", ["Every morning Aya goes for ..."])
        benchmarks.found_in("Each morning ...")  # None, or the kind and what it is like
    """

    words: int = WORDS
    sizes: dict[str, int] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)  # key of a text -> which problem
    _runs: dict[int, str] = field(default_factory=dict)  # hash of a run of words -> which problem

    def add(self, name: str, prompts: Iterable[str]) -> None:
        count = 0
        for number, prompt in enumerate(prompts):
            count += 1
            which = f"{name}, problem {number}"
            self._texts.setdefault(text_key(prompt), which)
            for run in self._runs_of(prompt):
                self._runs.setdefault(hash(run), which)
        self.sizes[name] = count

    def found_in(self, prompt: str) -> tuple[str, str] | None:
        """The kind of likeness and the benchmark's problem, with the words in common; None if there is none."""
        if (which := self._texts.get(text_key(prompt))) is not None:
            return "text of a benchmark's problem", which
        for run in self._runs_of(prompt):
            if (which := self._runs.get(hash(run))) is not None:
                return f"{self.words} words in a row of a benchmark's problem", f"{which} ({' '.join(run)!r})"
        return None

    def _runs_of(self, prompt: str) -> Iterator[tuple[str, ...]]:
        words = words_of(prompt)
        return zip(*(words[start:] for start in range(self.words)), strict=False)


def without_contaminated(candidates: Sequence[Found], benchmarks: Benchmarks, dropped: Dropped) -> list[Found]:
    kept = []
    for each in candidates:
        found = benchmarks.found_in(each.prompt)
        if found is None:
            kept.append(each)
        else:
            kind, which = found
            dropped.add(kind, f"{each.where} is like {which}: {on_one_line(each.prompt, 80)!r}")
    return kept
