"""What the plug-in overrides or calls in veRL, by its signature: an explanation before a run fails in the middle."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest

pytest.importorskip("verl")

TRAINER = "verl.trainer.ppo.v1.trainer_base:PPOTrainer"
ENGINE = "verl.workers.engine.fsdp.transformer_impl:FSDPEngine"
WORKER = "verl.workers.engine_workers"
LOOP = "verl.experimental.agent_loop"
# Where it is, its arguments, and what the plug-in does with it.
USED: tuple[tuple[str, str, str], ...] = (
    (f"{TRAINER}._init_resource_pool_mgr", "self", "the class of the training workers is replaced after it"),
    (f"{TRAINER}._build_replay_buffer", "self", "its wait for completions is watched"),
    (
        "verl.trainer.ppo.v1.replay_buffer:ReplayBuffer._wait_for_next_poll",
        "self, partition_id, last_debug_time",
        "it is watched",
    ),
    (f"{TRAINER}.on_init_end", "self", "the loss is handed to the workers before it"),
    (f"{TRAINER}._step_once", "self, metrics, timing_raw, sample_batch_size", "an error of a completion is raised"),
    (f"{TRAINER}._balance_batch", "self, batch, metrics, logging_prefix, keep_minibatch", "completions are counted"),
    (f"{TRAINER}._compute_old_log_prob", "self, batch, metrics", "it asks the engine for log_probs and entropy"),
    (f"{TRAINER}._compute_advantage", "self, batch, metrics", "it is replaced: the method decides"),
    (f"{TRAINER}._update_actor", "self, batch, metrics", "it is replaced: rows of weight 0 are left out"),
    ("verl.trainer.ppo.v1.trainer_sync:PPOTrainerSync.on_init_end", "self", "it is extended"),
    ("verl.trainer.ppo.v1.trainer_sync:PPOTrainerSync.on_sample_end", "self", "it is extended"),
    ("verl.trainer.ppo.v1.trainer_sync:PPOTrainerSync.on_step_end", "self", "it is extended"),
    ("verl.trainer.ppo.v1.trainer_base:register_trainer", "name", "the trainer is registered"),
    ("verl.trainer.main_ppo:run_ppo", "config, task_runner_class", "the run is started"),
    (f"{WORKER}:ActorRolloutRefWorker.init_model", "self", "the engine is chosen before it"),
    (f"{WORKER}:TrainingWorker.train_mini_batch", "self, data", "it cuts the rows of a process into updates, in order"),
    (f"{ENGINE}._build_module", "self", "the model gets a way to its hidden states"),
    (f"{ENGINE}._build_fsdp_module", "self, module", "a head that is sharded on its own is gathered"),
    (f"{ENGINE}.forward_backward_batch", "self, data, loss_function, forward_only", "it is replaced"),
    (
        "verl.workers.engine:EngineRegistry.register",
        "model_type, backend, device, vendor",
        "the engine is registered for a vendor of its own",
    ),
    (f"{LOOP}.agent_loop:register", "agent_name", "the loop is registered"),
    (
        f"{LOOP}.single_turn_agent_loop:SingleTurnAgentLoop.run",
        "self, sampling_params, priority, **kwargs",
        "the prompt is replaced before it",
    ),
    (f"{LOOP}.agent_loop:AgentLoopBase.ct_build_initial_tokens", "self, messages, ...", "the unguided prompt"),
    (
        f"{LOOP}.agent_loop:AgentLoopWorker._run_agent_loop",
        "self, sampling_params, trajectory, agent_name, trace, **kwargs",
        "its error is remembered",
    ),
    ("verl.trainer.ppo.v1.agent_loop_tq:AgentLoopManagerTQ.__init__", "self, *args, **kwargs", "it is extended"),
    ("verl.utils.fsdp_utils:apply_fsdp2", "model, fsdp_kwargs, config", "it shards an untied head on its own"),
    ("verl.models.transformers.monkey_patch:is_trl_available", "", "it is replaced where TRL is installed"),
    ("verl.workers.utils.padding:response_from_nested", "tensor, response_mask", "where log-probabilities stand"),
)


def find(where: str) -> Any:
    module, _, path = where.partition(":")
    found = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def arguments(function: Callable[..., Any]) -> list[str]:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    names = [stars.get(each.kind, "") + each.name for each in parameters]
    return [name for name in names if name != "_ray_trace_ctx"]  # which Ray adds to the methods of its classes


@pytest.mark.parametrize(("where", "signature", "why"), USED, ids=[where for where, _, _ in USED])
def test_what_is_used_of_verl_is_as_it_was(where: str, signature: str, why: str) -> None:
    change = f"veRL {version('verl')} changed {where}({signature}); here {why}. Read it, and adapt the plug-in"
    try:
        found = arguments(find(where))
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{change}: {error}")
    expected = [each for each in signature.split(", ") if each]
    if expected[-1:] == ["..."]:
        expected, found = expected[:-1], found[: len(expected) - 1]
    assert found == expected, change


def test_classes_that_ray_wraps_can_be_derived_from() -> None:
    for where in ("verl.trainer.main_ppo:TaskRunnerV1", "verl.trainer.ppo.v1.agent_loop_tq:AgentLoopWorkerTQ"):
        assert inspect.isclass(find(where).__ray_metadata__.modified_class), where


def test_each_module_of_the_plugin_registers_what_it_holds() -> None:
    for name in ("agent", "engine", "worker", "trainer", "runner"):
        import_module(f"sgpo.integrations.verl.{name}")
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
    from verl.trainer.ppo.v1.trainer_base import get_trainer_cls
    from verl.workers.engine import EngineRegistry

    from sgpo.integrations.verl.engine import SGPOEngine
    from sgpo.integrations.verl.trainer import SGPOVerlTrainer

    assert get_trainer_cls("sgpo") is SGPOVerlTrainer
    assert _agent_loop_registry["sgpo"]["_target_"] == "sgpo.integrations.verl.agent.SGPOAgentLoop"
    assert EngineRegistry._engines["language_model"]["fsdp2"]["cuda", "sgpo"] is SGPOEngine
