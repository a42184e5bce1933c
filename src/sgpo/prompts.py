"""What the student is asked.

The student answers a problem from two prompts that differ in one thing: the strategy, which stands in the user turn
before the problem. System prompt and answer instruction are the same on both sides (docs/method.md, "What is sampled"),
so that whatever changes in the student's distributions was changed by the strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgpo.problems import Problem

SYSTEM_PROMPT = "Please reason step by step, and put your final answer within \\boxed{}."
GUIDED_TEMPLATE = "Strategy for this kind of problem:\n{strategy}\n\nProblem:\n{problem}"

Messages = list[dict[str, str]]
AUTONOMOUS, GUIDED = "autonomous", "guided"  # the prompts that every problem may have, and the groups sampled from them


def student_messages(problem: str, system_prompt: str | None = SYSTEM_PROMPT) -> Messages:
    """The autonomous prompt: the bare problem. It is also the only prompt used at inference and evaluation."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": problem}]


def guided_messages(problem: str, strategy: str, system_prompt: str | None = SYSTEM_PROMPT) -> Messages:
    """The guided prompt: the strategy, then the problem, in one user turn."""
    return student_messages(GUIDED_TEMPLATE.format(strategy=strategy, problem=problem), system_prompt)


# (problem, system prompt) -> its messages; None for a problem that does not have this prompt
PromptOf = Callable[["Problem", str | None], Messages | None]


def _guided(problem: Problem, system_prompt: str | None) -> Messages | None:
    return guided_messages(problem.prompt, problem.strategy, system_prompt) if problem.strategy else None


PROMPTS: Mapping[str, PromptOf] = {
    AUTONOMOUS: lambda problem, system_prompt: student_messages(problem.prompt, system_prompt),
    GUIDED: _guided,
}


def response_messages(response: str) -> Messages:
    """The assistant turn that supervised fine-tuning learns."""
    return [{"role": "assistant", "content": response}]


def encode_prompts(tokenizer: Any, conversations: Sequence[Messages]) -> list[list[int]]:
    """Token ids of each conversation through the tokenizer's chat template, up to where the assistant speaks."""
    if not conversations:
        return []
    texts = tokenizer.apply_chat_template(list(conversations), tokenize=False, add_generation_prompt=True)
    # The template has written the special tokens; the tokenizer must not add them again.
    return tokenizer(texts, add_special_tokens=False)["input_ids"]
