"""Sampling: veRL's loop of a single turn, with the strategy in the prompt for the guided completions.

Of the completions of a problem, which veRL numbers (`session_id`), the first ones are autonomous and the rest guided.
A guided completion is stored after the unguided prompt, with the guided prompt beside it. Validation has no strategies.
"""

from __future__ import annotations

import traceback
from typing import Any

import ray
from verl.experimental.agent_loop.agent_loop import register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from sgpo.integrations.verl.data import guided_prompt
from sgpo.integrations.verl.settings import chosen
from sgpo.methods.options import MethodOptions

LOOP = "sgpo"
UNGUIDED_LOOP = "single_turn_agent"


@register(LOOP)
class SGPOAgentLoop(SingleTurnAgentLoop):
    """One completion, autonomous or guided."""

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> Any:
        messages, strategy = list(kwargs["raw_prompt"]), (kwargs.get("extra_info") or {}).get("strategy")
        guided = is_guided(int(kwargs["session_id"]), strategy, self.config["sgpo"])
        if guided and strategy:
            kwargs["raw_prompt"] = guided_prompt(messages, strategy)
        output = await super().run(sampling_params, priority, **kwargs)
        output.extra_fields["guided_prompt_ids"] = list(output.prompt_ids) if guided else []
        if guided:
            output.prompt_ids = await self.ct_build_initial_tokens(messages)
        return output


def is_guided(session: int, strategy: str | None, section: Any) -> bool:
    """Whether the completion of that number is sampled with the strategy."""
    found = chosen(section)
    options: MethodOptions = found.options
    return bool(strategy) and "strategy" in found.method.uses and session >= options.num_autonomous


class SGPOAgentLoopWorker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """veRL's, which remembers the first error: veRL itself writes errors of completions into its log and goes on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first_error: str | None = None

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], *, agent_name: str, **kwargs: Any
    ) -> Any:
        try:
            name = UNGUIDED_LOOP if trajectory["validate"] and agent_name == LOOP else agent_name
            return await super()._run_agent_loop(sampling_params, trajectory, agent_name=name, **kwargs)
        except Exception as error:
            self.first_error = self.first_error or "".join(traceback.format_exception(error))
            raise

    async def error_so_far(self) -> str | None:
        return self.first_error


class SGPOAgentLoopManager(AgentLoopManagerTQ):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(SGPOAgentLoopWorker)
