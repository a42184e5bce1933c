"""The mini-world's tokenizer: byte-level BPE, trained on the mini-world's own documents, in the Hugging Face format.

Two choices keep a laptop's time for the problems themselves. Numbers from 0 to 99 are single tokens, as larger
tokenizers group digits (single digits made arithmetic far harder to learn). And what stands in every prompt (system
prompt, template, problem types and principles) is one token a phrase.
"""

from __future__ import annotations

import re
from itertools import islice

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sgpo.miniworld.documents import LETTERS, pretraining_documents
from sgpo.miniworld.families import FAMILIES
from sgpo.prompts import GUIDED_TEMPLATE, SYSTEM_PROMPT

END, PAD = "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Numbers of up to two digits; step marks and words with the space before them, a word with that before a number as
# well; a sign with the space after it.
PIECES = r"\p{N}{1,2}| ?\([a-z]\) ?| ?\\boxed\{| ?\p{L}+(?: (?=\p{N}))?|[^\s\p{L}\p{N}] ?|\s+"


def phrases() -> list[str]:
    """Constant texts that become one token each."""
    before, between, _ = GUIDED_TEMPLATE.replace("{problem}", "{strategy}").split("{strategy}")
    parts = [SYSTEM_PROMPT, before, between, "Problem type: ", "\nStrategy: ", "\nSteps: "]
    for family in FAMILIES.values():
        parts += [family.problem_type, family.principle]
    return parts


def build_tokenizer(documents: int = 4000, vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """Train the tokenizer. The result depends on the mini-world's version alone, so every base model shares it."""
    constants = phrases()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(constants),
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    constant = re.compile("|".join(re.escape(text) for text in sorted(constants, key=len, reverse=True)))
    texts = [
        text
        for prompt, response in islice(pretraining_documents(seed=0), documents)
        for message in prompt + response
        for text in constant.split(message["content"])
    ]
    # Every number and step mark must get its token, however rare it is in a sample of documents.
    often = [f"{number}" for number in range(100)] + [f"({letter}) " for letter in LETTERS[:7]]
    tokenizer.train_from_iterator(texts + often * documents, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in constants])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
