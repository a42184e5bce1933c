"""Train on veRL: ``python -m sgpo.integrations.verl KEY=VALUE ...``, with hydra's overrides of veRL's configuration."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from sgpo.errors import UsageError, usage_errors
from sgpo.integrations.verl.settings import check_config


def refuse(error: object) -> NoReturn:
    """As `sgpo.cli` does; hydra calls this command, and not that."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(UsageError.exit_status)


try:
    import hydra
    import ray
    from omegaconf import OmegaConf, open_dict
    from verl.trainer.main_ppo import run_ppo
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device
except ImportError as missing:
    refuse(f"veRL cannot be loaded ({missing}); docs/verl.md says how to install it")


def completed(config: Any) -> Any:
    """The configuration with what follows from the section `sgpo`.

    Raises UsageError for what the plug-in does not do.
    """
    with usage_errors():
        found = check_config(OmegaConf.to_container(config, resolve=False))
    with open_dict(config):
        config.actor_rollout_ref.rollout.n = found.options.num_samples
    return config


@hydra.main(config_path="config", config_name="sgpo_trainer", version_base=None)
def main(config: Any) -> None:
    from sgpo.integrations.verl.runner import SGPOTaskRunner

    auto_set_device(config)
    try:
        completed(config)
    except UsageError as error:
        refuse(error)
    validate_config(config, use_reference_policy=False, use_critic=False)
    run_ppo(config, task_runner_class=ray.remote(SGPOTaskRunner))


if __name__ == "__main__":
    main()
