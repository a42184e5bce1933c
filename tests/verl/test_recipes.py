"""The paper's settings for veRL: hydra knows every key, and the values are those of `sgpo train`."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from places import ROOT

pytest.importorskip("verl")

from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from sgpo.errors import UsageError
from sgpo.integrations.verl.__main__ import completed
from sgpo.integrations.verl.settings import chosen, updates_per_rollout

CONFIG = ROOT / "src" / "sgpo" / "integrations" / "verl" / "config"
PAPER = ROOT / "src" / "sgpo" / "recipes" / "paper"
MODELS = ("qwen2.5-1.5b", "qwen2.5-7b", "llama-3.1-8b")


def composed(name: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONFIG), version_base=None):
        return compose(name, overrides=list(overrides))


@pytest.mark.parametrize("name", MODELS)
def test_a_recipe_composes_and_means_the_papers_settings(name: str) -> None:
    config = completed(composed(name))
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    ours = yaml.safe_load((PAPER / "rl.yaml").read_text()) | yaml.safe_load((PAPER / "sgpo.yaml").read_text())
    options = chosen(plain["sgpo"]).options
    for key in ("num_autonomous", "num_guided", "eps_low", "eps_high", "delta"):
        if key in ours:
            assert getattr(options, key) == ours[key], key
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    found = {
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "max_completion_length": config.data.max_response_length,
        "problems_per_rollout": config.data.train_batch_size,
        "updates_per_rollout": updates_per_rollout(plain),
        "num_train_epochs": config.trainer.total_epochs,
        "learning_rate": actor.optim.lr,
        "lr_scheduler_type": actor.optim.lr_scheduler_type,
        "max_tokens_per_microbatch": actor.ppo_max_token_len_per_gpu,
    }
    assert found == {key: ours[key] for key in found}
    assert rollout.n == 12
    assert config.data.train_files == ours["problems"].replace(".jsonl", ".parquet")
    assert config.data.val_files == config.data.train_files
    assert not config.trainer.val_before_train
    assert config.trainer.nnodes * config.trainer.n_gpus_per_node == 32
    model = yaml.safe_load((PAPER.parent / name / "sgpo.yaml").read_text())["model"]
    assert config.actor_rollout_ref.model.path == model


def test_a_key_that_verl_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigCompositionException, match="Could not override"):
        composed("qwen2.5-7b", "actor_rollout_ref.actor.optim.rat=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("actor_rollout_ref.model.use_fused_kernels=true", "use_fused_kernels is True"),
        ("actor_rollout_ref.actor.ulysses_sequence_parallel_size=2", "Ulysses"),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=2", "tensor parallelism was never tried"),
        ("actor_rollout_ref.actor.strategy=megatron", "not for Megatron"),
        ("sgpo.method=luffy", "on veRL there are sgpo and grpo"),
    ],
)
def test_refusals_meet_verls_own_configuration(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        completed(composed("qwen2.5-7b", override))
