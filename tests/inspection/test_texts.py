"""Texts of tokens put together are the text; steps; kinds of words."""

from __future__ import annotations

from typing import Any

import pytest

from sgpo.inspection.kinds import CONTENT, MATHEMATICS, STYLE, kind_of_word, kinds_of, shares_of, words_of_tokens
from sgpo.inspection.page import style_warning
from sgpo.inspection.texts import LONGEST_STEP, TokenNames, TokenText, steps_of, token_texts


def test_characters_of_several_tokens_are_joined(tokenizer: Any) -> None:
    ids = tokenizer("é好🙂", add_special_tokens=False)["input_ids"]  # bytes in this vocabulary
    found = token_texts(tokenizer, ids)
    assert len(found) == len(ids) == 2 + 3 + 4
    assert [each for each in found if each.text] == [TokenText("é", 1, 2), TokenText("好", 1, 3), TokenText("🙂", 1, 4)]
    assert [(each.part, each.parts) for each in found[2:5]] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("text", ["minus: 16-12=4 (b) ok", "\\boxed{19}\n\n x", "a\u0000b\u202eשלום", ""])
def test_texts_put_together_are_the_answer(tokenizer: Any, text: str) -> None:
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert "".join(each.text for each in token_texts(tokenizer, ids)) == text + tokenizer.eos_token


def test_bytes_that_are_no_text_end(tokenizer: Any) -> None:
    first = tokenizer("é", add_special_tokens=False)["input_ids"][0]
    found = token_texts(tokenizer, [first] * 20)
    assert len(found) == 20
    assert all(each.parts <= 8 for each in found)


class Metaspace:
    """A tokenizer that drops the space before the first token, as SentencePiece ones do."""

    words = ("▁the", "▁cat", "s", "▁a")

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(self.words[each] for each in ids).replace("▁", " ").removeprefix(" ")

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [3]}


def test_spaces_before_tokens_stay() -> None:
    tokenizer = Metaspace()
    assert [each.text for each in token_texts(tokenizer, [0, 1, 2])] == ["the", " cat", "s"]
    assert TokenNames(tokenizer)([0, 1, 2, 1]) == [" the", " cat", "s", " cat"]


def pieces_of(texts: list[str]) -> list[str]:
    steps = steps_of(texts)
    assert [number for step in steps for number in step] == list(range(len(texts)))
    return ["".join(texts[number] for number in step) for step in steps]


def test_steps_are_lines_or_sentences() -> None:
    assert pieces_of(["We", " add", ".\n", "Then", " 3", "\n\n", "So", " 5"]) == ["We add.\n", "Then 3\n\n", "So 5"]
    assert pieces_of(["We", " add", ".", " Then", " 3.5", " it", " is", "!"]) == ["We add.", " Then 3.5 it is!"]
    assert pieces_of([" (a)", " x", "=", "1", " (b)", " y"]) == [" (a) x=1", " (b) y"]
    assert pieces_of([]) == []
    long = pieces_of(["word "] * (2 * LONGEST_STEP + 1))
    assert [len(step.split()) for step in long] == [LONGEST_STEP, LONGEST_STEP, 1]


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        *((word, STYLE) for word in ("Therefore,", "the", "**", "...", "<|im_end|>", "First", "Let's", "")),
        *((word, MATHEMATICS) for word in ("48/2", "=", "$5", "\\boxed{13}", "multiply", "x", "half", "+")),
        *((word, CONTENT) for word in ("apples", "Natalia's", "Monday", "well-known")),
    ],
)
def test_kinds_of_words(word: str, kind: str) -> None:
    assert kind_of_word(word) == kind


def test_tokens_have_the_kind_of_their_word() -> None:
    texts = ["Nat", "alia", " sold", " 4", "8", " and", ",", "\n", "so"]
    assert [word for word, _ in words_of_tokens(texts)] == ["Natalia", "sold", "48", "and,", "", "so"]
    assert kinds_of(texts) == [CONTENT] * 3 + [MATHEMATICS] * 2 + [STYLE] * 4
    shares = shares_of(kinds_of(texts), [1, 0, 0, 2, 1, 0, 0, 0, 4])
    assert shares == {STYLE: 0.5, MATHEMATICS: 0.375, CONTENT: 0.125}
    assert shares_of([STYLE], [0.0]) == {STYLE: 0.0, MATHEMATICS: 0.0, CONTENT: 0.0}


def test_the_warning_where_style_dominates() -> None:
    tokens = {STYLE: 0.4, MATHEMATICS: 0.4, CONTENT: 0.2}
    assert style_warning({STYLE: 0.5, MATHEMATICS: 0.4, CONTENT: 0.1}, tokens) is None
    said = style_warning({STYLE: 0.61, MATHEMATICS: 0.29, CONTENT: 0.1}, tokens)
    assert said is not None
    assert said.startswith("Style dominates: 61 % of the divergence")
    assert "29 % on mathematics, 10 % on content" in said
