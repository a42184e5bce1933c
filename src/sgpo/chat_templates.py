"""What a run does to its tokenizer's chat template, before the first prompt is made.

- Arguments of the template, such as ``enable_thinking`` of Qwen3, are written into it as defaults.
- A template without a system turn, such as Gemma's, gets none: what the system turn would say stands at the beginning
  of the user turn, with and without a strategy alike.

The template itself is changed, so all that is made with it agrees: unguided and guided prompts, the rows of the
warm-up, and what is sampled from the finished checkpoint, beside which the changed template is saved.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sgpo.errors import Refusals

Scalar = str | int | float | bool | None
OWN = (
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
)  # whoever renders says these
SYSTEM_INTO_USER = (
    "{%- if messages | length > 1 and messages[0]['role'] == 'system' -%}"
    "{%- set messages = [{'role': messages[1]['role'], "
    "'content': messages[0]['content'] + '\\n\\n' + messages[1]['content']}] + messages[2:] -%}"
    "{%- endif -%}"
)
MARK = "what the system says"


def fit_template(tokenizer: Any, arguments: Mapping[str, Scalar], system_prompt: str | None) -> list[str]:
    """Change the template of a tokenizer as the run needs it; one that has been changed so already stays.

    Example: ``fit_template(tokenizer, {"enable_thinking": False}, SYSTEM_PROMPT)``

    Args:
        arguments: of the template, names and values.
        system_prompt: that of the run; without one, no system turn is missing.

    Returns:
        What to say of it, a sentence each.

    Raises:
        ValueError: an argument that the template does not read, or a value that cannot be written into it; a template
            that renders no user turn.
    """
    if tokenizer.chat_template is None:
        return []  # `check_tokenizer` refuses it
    template, said = tokenizer.get_chat_template(), []
    refusals = Refusals()
    refusals.add(_refusals(arguments, _names_read(template) - {*OWN, *tokenizer.special_tokens_map}))
    refusals.refuse()
    if arguments:
        template = _ahead(_defaults(arguments), template)
        shown = ", ".join(f"{name} {json.dumps(value)}" for name, value in arguments.items())
        said.append(f"Arguments of the chat template: {shown}.")
    if system_prompt and not _has_system_turn(tokenizer, template):
        template = _ahead(SYSTEM_INTO_USER, template)
        said.append("The chat template has no system turn: the system prompt stands at the beginning of the user turn.")
    tokenizer.chat_template = template
    return said


def _ahead(what: str, template: str) -> str:
    return template if template.startswith(what) else what + template


def _defaults(arguments: Mapping[str, Scalar]) -> str:
    return "".join(
        f"{{%- set {name} = {name} if {name} is defined else {_literal(value)} -%}}"
        for name, value in arguments.items()
    )


def _literal(value: Scalar) -> str:
    """As Jinja writes it, which differs from JSON in the one that is nothing."""
    return "none" if value is None else json.dumps(value)


def _refusals(arguments: Mapping[str, Scalar], read: frozenset[str]) -> Iterator[str]:
    known = sorted(read)
    for name, value in arguments.items():
        if name not in known:
            others = f"it reads {', '.join(known)}" if known else "it reads none"
            yield f"chat_template_kwargs: the chat template does not read {name!r}; {others}"
        if not isinstance(value, str | int | float | bool | None):
            kind = type(value).__name__
            yield f"chat_template_kwargs: {name} is a {kind}; write a text, a number, true, false or null"


def _names_read(template: str) -> frozenset[str]:
    """Names that whoever renders a template may give.

    Raises ValueError for a template that is none.
    """
    import jinja2
    from jinja2 import meta
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        environment = _compile_jinja_template(template).environment
    except jinja2.TemplateError as error:
        raise ValueError(f"the tokenizer's chat template cannot be read: {error}") from error
    return frozenset(meta.find_undeclared_variables(environment.parse(template)) - {*environment.globals})


def _has_system_turn(tokenizer: Any, template: str) -> bool:
    """Whether a system turn is rendered, neither refused nor left out.

    Raises ValueError for a template that renders no user turn either.
    """
    import jinja2

    user = {"role": "user", "content": "what the user says"}
    try:
        rendered = _rendered(tokenizer, template, [{"role": "system", "content": MARK}, user])
    except jinja2.TemplateError:
        rendered = ""
    if MARK in rendered:
        return True
    try:
        _rendered(tokenizer, template, [user])
    except jinja2.TemplateError as error:
        raise ValueError(f"the tokenizer's chat template does not render a user turn: {error}") from error
    return False


def _rendered(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> str:
    return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
