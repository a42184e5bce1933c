"""Eight problems with given rollouts for the trainer, and docs/method.md in plain float64 to compare it with."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.sampling.records import Rollout
from sgpo.training.config import SGPOConfig
from sgpo.training.trainer import SGPOTrainer

F64 = torch.float64

# --- eight problems with given rollouts ---------------------------------------------------------------------

# (reward, tokens before the end token) of each completion; "cut" has no end token, though its text is right
Plan = list[tuple[int | str, int]]
PLANS: list[tuple[Plan, Plan]] = [
    ([(1, 4), (0, 3), (0, 6)], [(1, 5), (1, 2)]),
    ([(0, 4), (0, 2), (0, 3)], [(0, 5), (1, 7)]),  # equal rewards, distilled
    ([(1, 4), ("cut", 7), (1, 2)], [("cut", 4), (0, 5)]),  # no complete correct guided completion
    ([(1, 3), (0, 5), (1, 2), (0, 4), (0, 6)], []),  # without a strategy
    ([(0, 3), (0, 2), (1, 5)], [(1, 6), (1, 4)]),
    ([(1, 4), (1, 2), (1, 3)], [(0, 5), (1, 4)]),  # alpha 0 in spite of a target
    ([(0, 6), (1, 3), (0, 4)], [(1, 3), ("cut", 4)]),
    ([(0, 4), (0, 2), (0, 3)], [(0, 5), (0, 7)]),  # nothing to learn
]
DELTA = 1.05
RIGHT, FALSE = "1", "0"  # the last token of a completion tells its reward


def last_digit_reward(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(completion.endswith(RIGHT)) for completion in completions]


Script = dict[tuple[int, ...], list[Rollout]]


def full_reward(plan: tuple[int | str, int]) -> float:
    return 1.0 if plan[0] == 1 else 0.0


MakeTrainer = Callable[..., SGPOTrainer]


class Recorder(TrainerCallback):
    """The gradient of each update, and the policy that it was computed with."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []
        self.policies: list[Any] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.gradients.append(gradient_of(model))
        self.policies.append(in_float64(model))


def in_float64(model: Any) -> Any:
    copied = copy.deepcopy(model)
    copied.zero_grad()
    return copied.to(F64).eval()


def gradient_of(model: Any) -> Tensor:
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([part.detach().flatten() for part in parts]).to(F64)


def assert_same_gradient(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert expected.norm() > 1e-3
    assert (actual - expected).norm() <= tolerance * expected.norm()


def updates_of(trainer: SGPOTrainer, problems: list[Problem], tokenizer: Any) -> list[list[Problem]]:
    """The problems of each update of the first rollout batch, in the order in which they were sampled."""
    by_prompt = {
        tuple(ids): problem
        for problem in problems
        for ids in encode_prompts(tokenizer, [student_messages(problem.prompt)])
    }
    requests, _, _ = trainer.sampler.calls[0]  # type: ignore[attr-defined]
    asked = [by_prompt[tuple(request.prompt_ids)] for request in requests[: len(problems)]]
    assert {p.id for p in asked} == {p.id for p in problems}
    size = len(problems) // trainer.args.updates_per_rollout
    return [asked[start : start + size] for start in range(0, len(asked), size)]


def lines_of(trainer: SGPOTrainer) -> list[dict[str, Any]]:
    path = Path(trainer.args.output_dir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- the reference: docs/method.md in plain float64, full logits, one sequence at a time ---------------


class Reference:
    def __init__(self, tokenizer: Any, script: Script, config: SGPOConfig, alpha_max: float = 0.8) -> None:
        self.tokenizer, self.script, self.config, self.alpha_max = tokenizer, script, config, alpha_max
        self.ratios: list[float] = []
        self.corrections: list[float] = []  # min(cap, pi_old / pi_sampler)
        self.divergences: list[float] = []
        self.objectives: list[float] = []
        self.alphas: list[float] = []

    def encode(self, messages: Any) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @staticmethod
    def distributions(policy: Any, prompt: list[int], completion: list[int]) -> Tensor:
        logits = policy(torch.tensor([prompt + completion])).logits[0]
        return logits[len(prompt) - 1 : -1].log_softmax(-1)

    def logprobs(self, policy: Any, prompt: list[int], completion: list[int]) -> Tensor:
        return self.distributions(policy, prompt, completion)[range(len(completion)), completion]

    def loss(self, policy: Any, old: Any, problems: list[Problem]) -> Tensor:
        losses = [self.problem_loss(policy, old, problem, PLANS[int(problem.id[1:])]) for problem in problems]
        return torch.stack(losses).mean()

    def problem_loss(self, policy: Any, old: Any, problem: Problem, plans: tuple[Plan, Plan]) -> Tensor:
        prompt = self.encode(student_messages(problem.prompt))
        count = len(plans[0]) if not plans[1] else self.config.num_autonomous
        rewards = torch.tensor([full_reward(plan) for plan in plans[0]], dtype=F64)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        objective = torch.zeros((), dtype=F64)
        for advantage, rollout in zip(advantages, self.script[tuple(prompt)], strict=True):
            present = self.logprobs(policy, prompt, rollout.completion_ids)
            with torch.no_grad():
                before = self.logprobs(old, prompt, rollout.completion_ids)
            rho = (present - before).exp()
            correction = torch.ones_like(before)
            if self.config.importance_cap is not None:
                sampled = rollout.sampler_logprobs.to(F64)
                correction = (before - sampled).exp().clamp(max=self.config.importance_cap)
            if advantage:
                self.ratios += rho.tolist()
                self.corrections += correction.tolist()
            low, high = 1 - self.config.eps_low, 1 + self.config.eps_high
            surrogate = torch.minimum(rho * advantage, rho.clamp(low, high) * advantage)
            objective = objective + (correction * surrogate).sum() / len(rollout.completion_ids) / count
        self.objectives.append(objective.item())
        alpha, distillation = 0.0, torch.zeros((), dtype=F64)
        correct = [number for number, plan in enumerate(plans[1]) if plan[0] == 1]
        if correct:
            distillation = self.distillation(policy, old, problem, prompt, correct)
            p_auto = sum(full_reward(plan) for plan in plans[0]) / len(plans[0])
            p_guide = len(correct) / len(plans[1])
            alpha = min(max(0.5 * (p_guide - p_auto + 0.1) / (p_auto + 0.1), 0.0), self.alpha_max)
        self.alphas.append(alpha)
        return -objective + alpha * distillation

    def distillation(self, policy: Any, old: Any, problem: Problem, prompt: list[int], correct: list[int]) -> Tensor:
        guided = self.encode(guided_messages(problem.prompt, problem.strategy or ""))
        candidates = [self.script[tuple(guided)][number].completion_ids for number in correct]
        with torch.no_grad():
            sums = [self.logprobs(old, prompt, ids).sum().item() for ids in candidates]
        target = candidates[sums.index(max(sums))]
        with torch.no_grad():
            teacher = self.distributions(policy, guided, target)
        student = self.distributions(policy, prompt, target)
        divergence = (teacher.exp() * (teacher - student)).sum(-1)
        self.divergences += divergence.tolist()
        kept = (divergence.detach() <= DELTA).to(F64)
        return (kept * divergence).sum() / len(target)

    def gradient(self, policy: Any, old: Any, problems: list[Problem]) -> tuple[float, Tensor]:
        policy.zero_grad()
        loss = self.loss(policy, old, problems)
        loss.backward()
        return loss.item(), gradient_of(policy)
