"""What TRL and veRL call things that have another name here, or that do not exist here: for messages.

docs/configuration.md shows the same table.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Here:
    """The keys that stand for another library's, and a remark. Example: ``Here(("eps_low",))``"""

    keys: tuple[str, ...] = ()
    remark: str = ""

    def __str__(self) -> str:
        keys = f"here {' and '.join(self.keys)}" if self.keys else ""
        return ": ".join(part for part in (keys, self.remark) if part)


NO_REFERENCE = Here(remark="the loss has no KL to a reference policy; leave it out")
ONE_UPDATE = Here(("updates_per_rollout",), "a rollout batch is cut into that many updates, each completion in one")
GROUPS = Here(("num_autonomous", "num_guided"), "the sizes of the two groups")
SECTION = Here(remark="a section of veRL's; keys are not nested here")

OTHER_NAMES: Mapping[str, Here] = {
    # TRL
    "model_name_or_path": Here(("model",)),
    "dataset_name": Here(("problems",)),
    "dataset_train_split": Here(("split",)),
    "dataset_test_split": Here(("eval_split",)),
    "reward_funcs": Here(("rewards",)),
    "num_generations": GROUPS,
    "max_prompt_length": Here(("bad_rows",), "prompts are not cut; too long ones are refused, or left out by drop"),
    "beta": NO_REFERENCE,
    "sync_ref_model": NO_REFERENCE,
    "epsilon": Here(("eps_low",)),
    "epsilon_high": Here(("eps_high",)),
    "num_iterations": ONE_UPDATE,
    "steps_per_generation": ONE_UPDATE,
    "generation_batch_size": Here(("problems_per_rollout",), "counted in problems"),
    "loss_type": Here(("method",), "it also decides how tokens are weighed"),
    "vllm_importance_sampling_correction": Here(("importance_cap",)),
    "vllm_importance_sampling_cap": Here(("importance_cap",)),
    "log_completions": Here(("completions_steps",)),
    "use_vllm": Here(("sampler",), "write sampler: vllm"),
    "vllm_server_host": Here(("vllm_server_base_url",), "http://HOST:PORT"),
    "vllm_server_port": Here(("vllm_server_base_url",), "http://HOST:PORT"),
    # veRL: the sections of its configuration, and the last parts of dotted names
    "actor_rollout_ref": SECTION,
    "algorithm": SECTION,
    "data": SECTION,
    "trainer": SECTION,
    "train_files": Here(("problems",)),
    "val_files": Here(("eval_problems",)),
    "train_batch_size": Here(("problems_per_rollout",)),
    "ppo_mini_batch_size": Here(("updates_per_rollout",), "an update takes problems_per_rollout / updates_per_rollout"),
    "ppo_epochs": ONE_UPDATE,
    "ppo_max_token_len_per_gpu": Here(("max_tokens_per_microbatch",)),
    "n": GROUPS,
    "max_response_length": Here(("max_completion_length",)),
    "clip_ratio": Here(("eps_low", "eps_high")),
    "clip_ratio_low": Here(("eps_low",)),
    "clip_ratio_high": Here(("eps_high",)),
    "use_kl_loss": NO_REFERENCE,
    "kl_loss_coef": NO_REFERENCE,
    "kl_coef": NO_REFERENCE,
    "entropy_coeff": Here(
        ("entropy_coefficient",), "of luffy, hpt, srft and ampo; the other methods have no entropy bonus"
    ),
    "lr": Here(("learning_rate",)),
    "total_epochs": Here(("num_train_epochs",)),
    "test_freq": Here(("eval_steps",)),
    "save_freq": Here(("save_steps",)),
    "default_local_dir": Here(("output_dir",)),
}


def other_name(key: str, known: Container[str]) -> Here | None:
    """What a key of TRL's or veRL's is called here; None for other keys, and where the command has none for it."""
    here = OTHER_NAMES.get(key.rpartition(".")[2])
    return here if here is not None and all(each in known for each in here.keys) else None
