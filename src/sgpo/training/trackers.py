"""The trackers that `report_to` names, and whether their packages are installed.

Trainer finds out that one is missing when it is constructed, once the weights are loaded. Here it is refused before.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from sgpo.configuration import nearest

# Of each tracker of transformers the modules that it needs, each with others that may stand in for it.
MODULES: dict[str, tuple[tuple[str, ...], ...]] = {
    "azure_ml": (("azureml.core",),),
    "clearml": (("clearml",),),
    "codecarbon": (("codecarbon",),),
    "comet_ml": (("comet_ml",),),
    "dagshub": (("dagshub",), ("mlflow",)),
    "dvclive": (("dvclive",),),
    "flyte": (("flytekit",),),
    "kubeflow": (),  # a server, which the environment names
    "mlflow": (("mlflow",),),
    "neptune": (("neptune", "neptune-client"),),
    "swanlab": (("swanlab",),),
    "tensorboard": (("tensorboard", "tensorboardX"),),
    "trackio": (("trackio",),),
    "wandb": (("wandb",),),
}
PACKAGES = {"azureml.core": "azureml-sdk", "comet_ml": "comet-ml"}  # where pip knows a module by another name


def check_trackers(report_to: Sequence[str]) -> None:
    """Raises ValueError for a tracker that does not exist, or is not installed."""
    for name in report_to:
        if name not in MODULES:
            raise ValueError(
                f"report_to: there is no tracker {name}{nearest(name, MODULES)}; there are {', '.join(MODULES)}"
            )
        missing = [names[0] for names in MODULES[name] if not any(map(_is_installed, names))]
        if missing:
            packages = " ".join(PACKAGES.get(module, module) for module in missing)
            raise ValueError(f"report_to: {name} is not installed; pip install {packages}, or leave it out")


def _is_installed(module: str) -> bool:
    """Without importing the module; `find_spec` imports what it lies in."""
    parent, _, _ = module.rpartition(".")
    return (not parent or _is_installed(parent)) and importlib.util.find_spec(module) is not None
