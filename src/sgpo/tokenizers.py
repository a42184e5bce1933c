"""What training and evaluation need to know of a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sgpo.errors import Refusals
from sgpo.prompts import Messages, PromptOf, encode_prompts

if TYPE_CHECKING:
    from sgpo.problems import Problem


_ANSWER = "an answer"


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a completion.

    Those of the model's generation configuration, the tokenizer's, and the one with which the chat template ends a turn
    of the assistant: a base model with such a template learns to write that one, and names another.
    """
    of_model = getattr(model.generation_config, "eos_token_id", None)
    ids = of_model if isinstance(of_model, list) else [of_model]
    return sorted({token for token in (*ids, tokenizer.eos_token_id, turn_end_id(tokenizer)) if token is not None})


def name_end_tokens(model: Any, tokenizer: Any) -> None:
    """Write all of them into the generation configuration, so that whoever samples from the checkpoint has them."""
    if getattr(model, "generation_config", None) is not None:
        ids = end_token_ids(model, tokenizer)
        model.generation_config.eos_token_id = ids[0] if len(ids) == 1 else ids


def turn_end_id(tokenizer: Any) -> int | None:
    """The special token with which a turn of the assistant ends: the template's, else the tokenizer's end token.

    Example: ``<end_of_turn>`` of Gemma, whose tokenizer's end token is ``<eos>``
    """
    if tokenizer.chat_template is None:
        return tokenizer.eos_token_id
    import jinja2

    answered = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = tokenizer.apply_chat_template(answered, tokenize=False)
    except jinja2.TemplateError:  # made for other conversations
        return tokenizer.eos_token_id
    first = tokenizer(text.rpartition(_ANSWER)[2].lstrip(), add_special_tokens=False)["input_ids"][:1]
    special = [token for token in first if (added := tokenizer.added_tokens_decoder.get(token)) and added.special]
    return special[0] if special else tokenizer.eos_token_id


def pad_token_id(tokenizer: Any) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


def check_tokenizer(tokenizer: Any, pad_token: str | None = None) -> None:
    """Refuse what prompts and batches cannot be made with; `pad_token` becomes the tokenizer's.

    Raises:
        ValueError: no chat template, no end token, no pad token, or a pad token that is not in the vocabulary.
    """
    if pad_token is not None and pad_token in tokenizer.get_vocab():
        tokenizer.pad_token = pad_token
    refusals = Refusals()
    refusals.add(_refusals(tokenizer, pad_token))
    refusals.refuse()


def _refusals(tokenizer: Any, pad_token: str | None) -> Iterator[str]:
    if tokenizer.chat_template is None:
        yield (
            "the tokenizer has no chat template; train an instruction-tuned checkpoint, or put a chat_template.jinja "
            "beside the model"
        )
    if tokenizer.eos_token_id is None:
        yield "the tokenizer has no eos_token: nothing would end a completion; name one in tokenizer_config.json"
    if pad_token is not None and pad_token not in tokenizer.get_vocab():
        yield f"pad_token {pad_token!r} is not in the tokenizer's vocabulary; take a token that is"
    elif tokenizer.pad_token_id is None:
        spare = _spare_token(tokenizer)
        example = "" if spare is None else f", such as {spare!r}"
        yield f"the tokenizer has no pad token; set pad_token to a token that no text contains{example}"


def _spare_token(tokenizer: Any) -> str | None:
    """A token of the vocabulary made for padding or for later use, as Llama's have; else the end token."""
    for word in ("pad", "reserved"):
        for token in sorted(tokenizer.get_added_vocab()):
            if word in token.lower():
                return token
    return tokenizer.eos_token


class PromptLengths:
    """Tokens of the longest of a problem's prompts through the chat template.

    Example: ``PromptLengths(tokenizer, system_prompt, PROMPTS)(problems)`` is one number for each problem. What was
    measured once is remembered.
    """

    def __init__(self, tokenizer: Any, system_prompt: str | None, prompts: Mapping[str, PromptOf]) -> None:
        self.tokenizer, self.system_prompt, self.prompts = tokenizer, system_prompt, prompts
        self._known: dict[str, int] = {}

    def __call__(self, problems: Sequence[Problem]) -> list[int]:
        of_problems = [self._prompts_of(problem) for problem in problems]
        new = {key: messages for each in of_problems for key, messages in each.items() if key not in self._known}
        encoded = encode_prompts(self.tokenizer, [*new.values()])
        self._known |= {key: len(ids) for key, ids in zip(new, encoded, strict=True)}
        return [max(self._known[key] for key in each) for each in of_problems]

    def _prompts_of(self, problem: Problem) -> dict[str, Messages]:
        """By their own text."""
        found = [prompt(problem, self.system_prompt) for prompt in self.prompts.values()]
        return {json.dumps(messages): messages for messages in found if messages is not None}
