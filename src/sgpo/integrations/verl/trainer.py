"""veRL's synchronous trainer, with the rows and weights of a method of this package."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf, open_dict
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.metric import reduce_metrics
from verl.utils.py_functional import rename_dict

from sgpo.errors import EngineError
from sgpo.integrations.verl.engine import Loss
from sgpo.integrations.verl.rows import (
    FIELDS,
    Decided,
    Parcel,
    SampledRow,
    arranged,
    decided,
    to_fields,
)
from sgpo.integrations.verl.settings import chosen, updates_per_rollout
from sgpo.integrations.verl.worker import SGPOWorker
from sgpo.means import Means
from sgpo.methods.terms import Thresholds
from sgpo.tokenizers import end_token_ids
from sgpo.training.metrics import group_metrics, sampler_mismatch


class _Quiet:
    def note(self, what: str) -> None:
        """Nobody watches."""


ASK_SECONDS = 20.0
NEEDED = ("prompts", "responses", *FIELDS)  # by an update


@register_trainer("sgpo")
class SGPOVerlTrainer(PPOTrainerSync):
    progress: Any = _Quiet()  # told what ended

    def __init__(self, config: Any) -> None:
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # by which veRL now knows how sampling and updates alternate
        found = chosen(OmegaConf.to_container(config.sgpo, resolve=True))
        self.method, self.options = found.method, found.options
        self.updates = updates_per_rollout(OmegaConf.to_container(config, resolve=True))
        self.decided: Decided | None = None
        super().__init__(config)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if list(self.role_worker_mapping) != [Role.ActorRollout]:
            raise RuntimeError(f"the workers have the roles {list(self.role_worker_mapping)}, not that of the policy")
        self.role_worker_mapping[Role.ActorRollout] = ray.remote(SGPOWorker)

    def _build_replay_buffer(self) -> Any:
        """While veRL waits for completions, it asks now and then whether those who sample are still there."""
        buffer, asked = super()._build_replay_buffer(), [time.monotonic()]
        wait = buffer._wait_for_next_poll

        def watching(*args: Any) -> float:
            if time.monotonic() - asked[0] > ASK_SECONDS:
                self._raise_sampling_error(None)
                asked[0] = time.monotonic()
            return wait(*args)

        buffer._wait_for_next_poll = watching
        return buffer

    def on_init_end(self) -> None:
        self.actor_rollout_wg.set_loss_fn(Loss(Thresholds.of(self.options)))
        self.end_tokens = _end_tokens(self.config.actor_rollout_ref.model.path, self.tokenizer)
        self.progress.note("the workers' start")
        super().on_init_end()
        self.progress.note("the first synchronisation of the weights")

    def on_sample_end(self) -> None:
        self.progress.note("sampling")
        super().on_sample_end()

    def on_step_end(self) -> None:
        super().on_step_end()
        self.progress.note("the synchronisation of the weights")

    def on_validate_end(self) -> None:
        super().on_validate_end()
        self.progress.note("validation")

    def _step_once(self, metrics: dict[str, Any], timing_raw: dict[str, float], sample_batch_size: int) -> Any:
        try:
            return super()._step_once(metrics, timing_raw, sample_batch_size)
        except Exception as error:
            self._raise_sampling_error(error)
            raise

    def _balance_batch(self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        wanted = self.config.data.train_batch_size * self.options.num_samples
        if len(batch) != wanted:
            self._raise_sampling_error(None)
            raise EngineError(f"{len(batch)} of {wanted} completions were sampled; veRL's log says why")
        return super()._balance_batch(batch, metrics, *args, **kwargs)

    def _raise_sampling_error(self, error: Exception | None) -> None:
        """That of the first completion which failed, if one did: veRL goes on without it, or waits for ever."""
        asked = [worker.error_so_far.remote() for worker in self.agent_loop_manager.agent_loop_workers]
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=10)
        for answer in ready:
            try:
                said = ray.get(answer)
            except ray.exceptions.RayActorError as gone:
                raise EngineError(f"a process that samples is gone, which ends the run: {gone}") from error
            if said:
                raise EngineError(
                    f"a completion could not be sampled or judged, which ends the run:\n{said}"
                ) from error

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Decide what each update learns; veRL's fields of advantages are for its metrics alone."""
        self.progress.note("the log-probabilities")
        rows = self._rows(batch)
        if self.config.sgpo.rows_dir:
            path = Path(self.config.sgpo.rows_dir, f"{self.global_steps}.pt")
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(rows, path)
        self.decided = decided(rows, self.method, self.options, self.updates)
        metrics.update(_logged(self.decided))
        advantages = [torch.full((len(row.completion_ids),), self.decided.advantages[row.key]) for row in rows]
        nested = torch.nested.as_nested_tensor(advantages, layout=torch.jagged)
        fields = TensorDict({"advantages": nested, "returns": nested.clone()}, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _rows(self, batch: Any) -> list[SampledRow]:
        names = ["prompts", "responses", "rm_scores", "old_log_probs", "rollout_log_probs", "extra_fields"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        columns = [data[name].unbind() for name in names[:-1]]
        extras = list(data["extra_fields"])
        return [
            _row(key, values, extra, self.end_tokens)
            for key, extra, *values in zip(batch.keys, extras, *columns, strict=True)
        ]

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """The updates of the rollout batch, without completions that weigh nothing, but for a few to fill up with."""
        assert self.decided is not None  # veRL decides before it updates
        processes = self.actor_rollout_wg.world_size
        parcels = self.decided.parcels
        enter = {parcel.key for some in parcels for parcel in some}
        lengths = dict(zip(batch.keys, (tag["response_len"] for tag in batch.tags), strict=True))
        spare = [Parcel.nothing(key, length) for key, length in lengths.items() if key not in enter]
        order = arranged(parcels, spare, processes)
        keys = [parcel.key for parcel in order]
        fields = TensorDict(to_fields(order), batch_size=len(order))
        tq.kv_batch_put(keys=keys, partition_id=batch.partition_id, fields=fields)
        tags = dict(zip(batch.keys, batch.tags, strict=True))
        sent = KVBatchMeta(
            keys=keys,
            tags=[tags[key] for key in keys],
            partition_id=batch.partition_id,
            fields=list(NEEDED),
            extra_info={"mini_batch_size": len(order) // self.updates, "epochs": 1},
        )
        output = rename_dict(self.actor_rollout_wg.update_actor(sent)["metrics"], "actor/")
        self.progress.note("the updates")
        metrics.update({name.replace("actor/sgpo/", "sgpo/"): value for name, value in reduce_metrics(output).items()})
        return batch


def _row(key: str, values: Sequence[torch.Tensor], extra: Mapping[str, Any], end_tokens: list[int]) -> SampledRow:
    prompt, response, reward, old, sampler = values
    score, said = float(reward.sum()), extra.get("reward_extra_info") or {}
    completion = response.tolist()
    return SampledRow(
        key=key,
        problem=key.split("_")[0],
        prompt_ids=prompt.tolist(),
        completion_ids=completion,
        guided_prompt_ids=list(extra["guided_prompt_ids"]),
        reward=score,
        correct=float(said.get("acc", score)) >= 1.0,
        truncated=completion[-1] not in end_tokens,
        old_logprobs=old,
        sampler_logprobs=sampler,
    )


def _end_tokens(path: str, tokenizer: Any) -> list[int]:
    from types import SimpleNamespace

    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(path)
    except OSError:  # a checkpoint without that file
        generation = None
    return end_token_ids(SimpleNamespace(generation_config=generation), tokenizer)


def _logged(found: Decided) -> dict[str, float]:
    parts = []
    for update in found.updates:
        parts += [group_metrics(update.groups, update.decisions), sampler_mismatch(update.rows)]
    rows = Means.of({"rows": sum(len(some) for some in found.parcels)})
    return {f"sgpo/{name}": value for name, value in Means.joined([*parts, rows]).values().items()}
