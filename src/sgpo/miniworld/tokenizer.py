"""The mini-world's tokenizer, in the Hugging Face format.

Every piece of text that the mini-world's documents are made of is one token: words, signs, step marks, the numbers from
0 to 99 (single digits made arithmetic far harder to learn), and each phrase that stands in every prompt, so that a
laptop's time goes into the problems. Any other text is spelled in bytes.

The pieces are *added* tokens over a byte-level BPE without merges. Loaders of Qwen2 checkpoints put their own
pre-tokenizer in place of a file's; added tokens are matched before it, so that all of them tokenize alike.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sgpo.miniworld.documents import pretraining_documents
from sgpo.miniworld.families import FAMILIES
from sgpo.prompts import GUIDED_TEMPLATE, SYSTEM_PROMPT
from sgpo.strategies.record import LETTERS

END, PAD = "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Numbers of up to two digits; step marks and words with the space before them, a word with that before a number as
# well; a sign with the space after it.
PIECES = re.compile(r"[0-9]{1,2}| ?\([a-z]\) ?| ?\\boxed\{| ?[A-Za-z]+(?: (?=[0-9]))?|[^\sA-Za-z0-9] ?|\s+")

SPACED_WORDS = re.compile(r"([A-Za-z]+ )(?=([A-Za-z]+))")


def phrases() -> list[str]:
    """Constant texts that become one token each."""
    before, between, _ = GUIDED_TEMPLATE.replace("{problem}", "{strategy}").split("{strategy}")
    parts = [SYSTEM_PROMPT, before, between, "Problem type: ", "\nStrategy: ", "\nSteps: "]
    for family in FAMILIES.values():
        parts.append(family.problem_type)
    return parts


def pieces(documents: int) -> list[str]:
    """Every piece that occurs in some documents of textbook and mixture, and each number and step mark."""
    constant = re.compile("|".join(re.escape(text) for text in sorted(phrases(), key=len, reverse=True)))
    texts: set[str] = set()
    found = {str(number) for number in range(100)}
    for letter in LETTERS[:8]:
        found |= {f"({letter}) ", f" ({letter}) "}
    for prompt, response in islice(pretraining_documents(seed=0, textbook_documents=documents // 2), documents):
        for message in prompt + response:
            for text in constant.split(message["content"]):
                found.update(PIECES.findall(text))
                texts.add(text)
    # " by " stands before a number; where a word follows, as in "one by one", that word stands without its space.
    for text in texts:
        found |= {after for before, after in SPACED_WORDS.findall(text) if found & {before, f" {before}"}}
    return sorted(found)


@lru_cache(maxsize=1)
def build_tokenizer(documents: int = 6000) -> PreTrainedTokenizerFast:
    """The same for every base model of this version of the mini-world; `documents` must reach every word once."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = [PAD, END, *ROLES]
    vocabulary = {token: number for number, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in [*phrases(), *pieces(documents)]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,  # never used; without one, loaders of Qwen2 checkpoints add a token that the model does not have
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
