"""How long a browser needs for a page of `sgpo inspect` with one answer of 16K tokens.

    python benchmarks/token_view.py [--tokens 16384] [--runs 5] [--browser /usr/bin/chromium] [--output view.json]

The numbers of the answer are made up, its shapes are those of a real one: five tokens of both distributions at each
place, a vocabulary of 5,000 words, steps of about 20 tokens. Each run is a new window of a headless Chromium that opens
the file from disk: *loaded* is the time until the page has drawn its answer and reacts, *select* that from a key to the
next frame, for a token at the other end of the answer, *colour* that of another colouring of all tokens.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import write_report
from page_times import Actions, add_options, time_page

from sgpo.inspection.measure import TOP, Side, TokenMeasures
from sgpo.inspection.page import InspectedAnswer, inspection_page

WORDS, STEP = 5000, 20
ACTIONS: Actions = {
    "select": ("#answer", lambda page: page.keyboard.press("End")),
    "colour": ("#answer", lambda page: page.locator("#measure").select_option("sft")),
}


class Words:
    """A vocabulary of words, as much of a tokenizer as the page needs."""

    all_special_ids = (0,)

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(".\n" if each % STEP == 0 else f" word{each}" for each in ids)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [1]}

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"word{token}"


def made_up_answer(tokens: int) -> InspectedAnswer:
    torch.manual_seed(0)

    def side() -> Side:
        probs = torch.rand(tokens, TOP).sort(descending=True).values / TOP
        return Side(-3 * torch.rand(tokens), torch.rand(tokens), torch.randint(0, WORDS, (tokens, TOP)), probs)

    measures = TokenMeasures(4 * torch.rand(tokens) ** 12, side(), side())
    ids = torch.randint(0, WORDS, (tokens,)).tolist()
    return InspectedAnswer("made up", "A problem", "A strategy", [], ids, measures, -torch.rand(tokens), 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_384)
    add_options(parser)
    options = parser.parse_args()
    start = time.process_time()
    text = inspection_page([made_up_answer(options.tokens)], Words(), subtitle="made up")
    report: dict[str, Any] = {"tokens": options.tokens, "megabytes": len(text.encode()) / 1e6}
    report["written"] = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "view.html"
        path.write_text(text, encoding="utf-8")
        print(f"{options.tokens} tokens, {report['megabytes']:.1f} MB, made in {report['written']:.1f} s of a core")
        report["runs"] = time_page(path, ACTIONS, options, width=1300)
    write_report(options.output, report)


if __name__ == "__main__":
    main()
