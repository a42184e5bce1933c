"""Evaluation of a model behind an OpenAI-compatible server, with the common chat client, `sgpo.chat.client`.

Each sample is a request of its own with a seed of its own: servers that answer n samples to one seed differ in how they
do it, and a balancer spreads single requests over all machines behind its address. The server's chat template makes the
prompt; a server refuses what does not fit into its context.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sgpo.chat.client import Answer, ChatClient, FailedError, Question, all_of, check_extra_body
from sgpo.chat.session import Connection, check_connection, end_early, run_session
from sgpo.errors import UnfinishedError
from sgpo.evaluation.engines import EvaluationRequest, Progress
from sgpo.evaluation.evaluate import SampledCompletion, conversations_of, problem_seed
from sgpo.problems import Problem
from sgpo.prompts import Messages

VERSION = "eval 1"  # of how samples are asked for; part of the journal's keys
REPEATABLE = "what the server makes of the seed; servers that batch requests rarely repeat themselves exactly"
UNSEEDED = "the server got no seed, so another run gets other samples"


class HttpEngine:
    """A model behind an address.

    Args:
        connection: the server; its journal is replaced by that of the evaluation.
        model: the model's name at that server.
        send_seed: whether requests have the field ``seed``, which some servers refuse.
        extra_body: further fields of every request, none of which it has anyway.

    Raises:
        ValueError: a field of `extra_body` that is sent anyway.
    """

    def __init__(
        self, connection: Connection, model: str, *, send_seed: bool = True, extra_body: Mapping[str, Any] | None = None
    ) -> None:
        self.connection, self.model = connection, model
        self.send_seed, self.extra_body = send_seed, dict(extra_body or {})
        check_extra_body(self.extra_body, ["temperature", "top_p", *(["seed"] if send_seed else [])])
        self.identity = {
            "name": "http",
            "model": model,
            "revision": None,  # which weights a server has loaded, only the server knows
            "base_url": connection.base_url,
            "extra_body": self.extra_body,
            "send_seed": send_seed,
        }
        self.repeatable = REPEATABLE if send_seed else UNSEEDED

    def check(self) -> None:
        """Raises `NotReadyError` if the server is not there, refuses the key, or has no such model."""
        asyncio.run(check_connection(self.connection, [self.model]))

    def answer(
        self, problems: Sequence[Problem], asked: EvaluationRequest, journal: Path, progress: Progress
    ) -> list[list[SampledCompletion]]:
        conversations = conversations_of(problems, asked.system_prompt, guided=asked.guided)
        messages = {problem.id: each for problem, each in zip(problems, conversations, strict=True)}

        async def handle(problem: Problem, client: ChatClient) -> list[SampledCompletion] | FailedError:
            questions = self._questions(problem, messages[problem.id], asked)
            try:
                return await all_of(*(_ask(question, client, progress) for question in questions))
            except FailedError as error:
                return error

        connection = replace(self.connection, journal=journal)
        run = asyncio.run(run_session(problems, handle, connection, [self.model]))
        if run.stop_reason is not None:
            end_early(run.stop_reason, f"{run.stop_reason}; {_go_on(run.unfinished)}")
        failed = [outcome for outcome in run.outcomes if isinstance(outcome, FailedError)]
        if failed:
            raise UnfinishedError(f"{failed[0]}; {_go_on(len(failed))}")
        return [outcome for outcome in run.outcomes if not isinstance(outcome, FailedError)]

    def _questions(self, problem: Problem, messages: Messages, asked: EvaluationRequest) -> list[Question]:
        sampling, seed = asked.sampling, problem_seed(asked.seed, problem)
        shared = {"temperature": sampling.temperature, "top_p": sampling.top_p, **self.extra_body}
        return [
            Question(
                self.model,
                messages,
                shared | ({"seed": (seed + sample) % 2**31} if self.send_seed else {}),
                sampling.max_new_tokens,
                f"{VERSION}, seed {asked.seed}, sample {sample}",
            )
            for sample in range(asked.k)
        ]


async def _ask(question: Question, client: ChatClient, progress: Progress) -> SampledCompletion:
    (key,) = question.keys(1)
    known = key in client.journal
    [answer] = await client.ask(question)
    if known:
        progress.known(1)
    else:
        progress.add(1, answer.usage.completion_tokens)
    return _completion(answer)


def _go_on(count: int) -> str:
    return f"{count} problems are not answered; the same command goes on with them"


def _completion(answer: Answer) -> SampledCompletion:
    return SampledCompletion(answer.text, answer.truncated, answer.usage.completion_tokens, answer.reasoning)
