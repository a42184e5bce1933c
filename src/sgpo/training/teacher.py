"""Copies of the policy: the reference, and the teacher of divergences where it is not the present policy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from sgpo.training.preflight import TEACHER


def frozen_copy(model: Any) -> Any:
    """The policy as it is. What is not trained, as the weights under an adapter, both have in common."""
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()


def teacher_of(policy: Any, update_rate: float) -> TeacherPolicy | None:
    """None for the present policy, which the update has in any case."""
    return None if update_rate == 1 else TeacherPolicy(policy, update_rate)


class TeacherPolicy:
    """The policy before training, or from there on a moving average of it.

    Args:
        policy: before training, in the types that it is trained in.
        update_rate: the part of its way to the policy that the teacher goes each time it follows; 0: it stays.
    """

    def __init__(self, policy: Any, update_rate: float) -> None:
        self.model, self.update_rate = frozen_copy(policy), update_rate
        self._trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]

    @torch.no_grad()
    def follow(self, policy: Any) -> None:
        """p_teacher += rate (p - p_teacher)"""
        if self.update_rate:
            present = dict(policy.named_parameters())
            for name, parameter in self._parameters().items():
                parameter.lerp_(present[name], self.update_rate)

    def save(self, folder: Path) -> None:
        """Into a checkpoint; what stays as it was before training is not saved."""
        if self.update_rate:
            save_file({name: tensor.contiguous() for name, tensor in self._parameters().items()}, folder / TEACHER)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """From a checkpoint."""
        if self.update_rate:
            for name, tensor in load_file(folder / TEACHER).items():
                self.model.get_parameter(name).copy_(tensor)

    def _parameters(self) -> dict[str, Tensor]:
        return {name: self.model.get_parameter(name) for name in self._trained}


class FollowPolicy(TrainerCallback):
    """The teacher follows the policy after the last update of each rollout batch, before a checkpoint is saved."""

    def __init__(self, teacher: TeacherPolicy, updates_per_rollout: int) -> None:
        self.teacher, self.updates_per_rollout = teacher, updates_per_rollout

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self.updates_per_rollout == 0:
            self.teacher.follow(model)
