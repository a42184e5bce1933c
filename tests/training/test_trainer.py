from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerCallback

from sgpo.problems import Problem
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.rewards import VERIFIER, choose_rewards
from sgpo.sampling.records import Rollout
from sgpo.training import trainer as trainer_module
from sgpo.training.batches import RolloutBatchSampler
from sgpo.training.config import SGPOConfig
from sgpo.training.run import cut_metrics
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
DELTA = 0.85
RIGHT, FALSE = "1", "0"  # the last token of a completion tells its reward


def last_digit_reward(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(completion.endswith(RIGHT)) for completion in completions]


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    methods = ("add", "subtract", "multiply", "divide")
    return [
        Problem(
            id=f"p{number}",
            prompt=f"Compute {number}+{number + 3}",
            answer=str(2 * number + 3),
            strategy=f"Steps: (a) {methods[number % 4]}" if guided else None,
            extra={"level": number},
        )
        for number, (_, guided) in enumerate(PLANS)
    ]


Script = dict[tuple[int, ...], list[Rollout]]


@pytest.fixture(scope="module")
def script(problems: list[Problem], tokenizer: Any) -> Script:
    """Rollouts by prompt: words and numbers at random, then the token that tells the reward."""
    source = torch.Generator().manual_seed(1)
    words = [token for token in range(len(tokenizer)) if tokenizer.decode([token]).strip().isalnum()]
    right, false = (tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in (RIGHT, FALSE))
    found: Script = {}
    for problem, plans in zip(problems, PLANS, strict=True):
        conversations = [student_messages(problem.prompt)]
        if problem.strategy:
            conversations.append(guided_messages(problem.prompt, problem.strategy))
        for prompt, plan in zip(encode_prompts(tokenizer, conversations), plans, strict=False):
            rollouts = []
            for reward, length in plan:
                drawn = [words[i] for i in torch.randint(len(words), (length - 1,), generator=source).tolist()]
                ids = [*drawn, false if reward == 0 else right]
                if reward != "cut":
                    ids.append(tokenizer.eos_token_id)
                rollouts.append(Rollout(ids, [-1.0] * len(ids), truncated=reward == "cut"))
            found[tuple(prompt)] = rollouts
    return found


def full_reward(plan: tuple[int | str, int]) -> float:
    return 1.0 if plan[0] == 1 else 0.0


MakeTrainer = Callable[..., SGPOTrainer]


@pytest.fixture
def make_trainer(
    make_config: Callable[..., SGPOConfig],
    checkpoint: Path,
    tokenizer: Any,
    problems: list[Problem],
    script: Script,
    scripted_sampler: Any,
) -> MakeTrainer:
    """A trainer of the scripted rollouts; keywords change its configuration."""

    def make(train_dataset: Any = None, eval_dataset: Any = None, **changes: Any) -> SGPOTrainer:
        of_method = {"delta": DELTA} if changes.get("method", "sgpo") == "sgpo" else {}
        values = {"problems_per_rollout": 8, "learning_rate": 1e-3, "max_grad_norm": 0.0, **of_method, **changes}
        return SGPOTrainer(
            AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32),
            make_config(**values),
            train_dataset=train_dataset or problems,
            eval_dataset=eval_dataset,
            reward_funcs=last_digit_reward,
            processing_class=tokenizer,
            sampler=scripted_sampler(script),
        )

    return make


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
                sampled = torch.tensor(rollout.sampler_logprobs, dtype=F64)
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


# --- gradients ----------------------------------------------------------------------------------------------


CAP = 0.01  # low, as the script calls the probabilities in the sampler high
# GRPO is the same reference at alpha = 0, on problems that all have as many completions.
RUNS_OF_THE_REFERENCE: dict[str, tuple[int, dict[str, Any], float]] = {
    "sgpo": (8, {}, 0.8),
    "grpo": (6, {"method": "grpo", "num_guided": 0, "problems_per_rollout": 6}, 0.0),
    "importance": (8, {"importance_cap": CAP}, 0.8),
}


@pytest.mark.parametrize("run", RUNS_OF_THE_REFERENCE)
def test_gradients_of_both_updates_equal_the_reference(
    make_trainer: MakeTrainer,
    problems: list[Problem],
    with_strategy: list[Problem],
    tokenizer: Any,
    script: Script,
    run: str,
) -> None:
    """Through train(): a rollout batch of two updates, an AdamW step between them."""
    count, changes, alpha_max = RUNS_OF_THE_REFERENCE[run]
    used = problems if count == len(problems) else with_strategy[:count]
    trainer, recorder = make_trainer(used, **changes), Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    assert len(recorder.gradients) == 2
    assert len(trainer.sampler.calls) == 1  # type: ignore[attr-defined]
    sampled_from = recorder.policies[0]
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    parts = updates_of(trainer, used, tokenizer)
    bounds = (1 - trainer.args.eps_low, 1 + trainer.args.eps_high)
    for update, (policy, actual, part) in enumerate(zip(recorder.policies, recorder.gradients, parts, strict=True)):
        reference = Reference(tokenizer, script, trainer.args, alpha_max)
        loss, expected = reference.gradient(policy, sampled_from, part)
        assert_same_gradient(actual, expected)
        assert losses[update] == pytest.approx(loss, abs=1e-5)
        # Guards: both sides of every threshold occur, and no value so near that rounding could decide.
        assert {d <= DELTA for d in reference.divergences} == {True, False}
        assert min(abs(d - DELTA) for d in reference.divergences) > 1e-3
        assert min(abs(rho - bound) for rho in reference.ratios for bound in bounds) > 1e-5
        if run == "importance":
            assert min(reference.corrections) < 0.9 * CAP
            assert reference.corrections.count(CAP) > 1
        moved = [rho for rho in reference.ratios if abs(rho - 1) > 0.05]
        assert bool(moved) == (update > 0)
        if update > 0:
            assert min(moved) < bounds[0]
            assert max(moved) > bounds[1]
            assert any(bounds[0] < rho < bounds[1] for rho in moved)


@pytest.mark.parametrize("max_tokens", [1, 150, 100_000])
def test_gradient_does_not_depend_on_the_token_budget(
    make_trainer: MakeTrainer, problems: list[Problem], max_tokens: int
) -> None:
    gradients = []
    for budget in (400, max_tokens):
        trainer = make_trainer()
        trainer.args.max_tokens_per_microbatch = budget  # also one so small that every row is a micro-batch of its own
        trainer._assemble(trainer._verify(trainer._sample(problems)))
        trainer._optimise(trainer.model, trainer._updates[0])
        gradients.append(gradient_of(trainer.model))
    assert_same_gradient(gradients[1], gradients[0], 2e-6)


def gradients_of_both_parts(trainer: SGPOTrainer, problems: list[Problem]) -> list[Tensor]:
    """Without a step between, so both are of the policy that sampled."""
    trainer._assemble(trainer._verify(trainer._sample(problems)))
    gradients = []
    for sequences in trainer._updates:
        trainer.model.zero_grad()
        trainer._optimise(trainer.model, sequences)
        gradients.append(gradient_of(trainer.model))
    return gradients


@pytest.fixture
def with_strategy(problems: list[Problem]) -> list[Problem]:
    return [p for p in problems if p.strategy][:6]


def grpo_gradients(make_trainer: MakeTrainer, problems: list[Problem]) -> list[Tensor]:
    """On the first three completions, those that sgpo draws without a strategy."""
    return gradients_of_both_parts(make_trainer(method="grpo", num_guided=0, problems_per_rollout=6), problems)


def test_alpha_zero_gives_the_gradient_of_grpo(make_trainer: MakeTrainer, with_strategy: list[Problem]) -> None:
    ours = gradients_of_both_parts(make_trainer(alpha_max=0.0, problems_per_rollout=6), with_strategy)
    for actual, expected in zip(ours, grpo_gradients(make_trainer, with_strategy), strict=True):
        assert_same_gradient(actual, expected, 1e-7)
    other = gradients_of_both_parts(make_trainer(problems_per_rollout=6), with_strategy)
    assert (other[0] - ours[0]).norm() > 0.01 * ours[0].norm()  # guards: alpha above 0 makes a difference


def test_equal_prompts_have_no_divergence_and_no_gradient(
    make_trainer: MakeTrainer, with_strategy: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The strategy put away: both sides are one distribution, and the guided completions stay what they were."""
    trainer = make_trainer(problems_per_rollout=6)
    for layer in trainer.model.model.layers:
        layer.self_attn.attention_dropout = 0.1  # of a model configured with it; no pass of the loss has dropout
    groups = trainer._sample(with_strategy)
    monkeypatch.setattr(trainer, "_sample", lambda problems: [unguided(group) for group in groups])
    ours = gradients_of_both_parts(trainer, with_strategy)
    assert any(row.term == "distillation" for rows in trainer._updates for row in rows)
    assert trainer.logbook.take()["divergence"] == 0.0
    for actual, expected in zip(ours, grpo_gradients(make_trainer, with_strategy), strict=True):
        assert_same_gradient(actual, expected, 1e-6)


def unguided(group: Any) -> Any:
    return trainer_module.replace(group, guided_prompt_ids=group.prompt_ids)


def test_updates_without_any_weight_change_nothing(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    hopeless = [Problem(f"p{7 + 8 * n}", problems[7].prompt, str(n), strategy=problems[7].strategy) for n in range(8)]
    trainer = make_trainer(train_dataset=hopeless, max_steps=4)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert trainer.state.global_step == 4
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in entries] == [0.0] * 4
    assert [entry["zero_variance_share"] for entry in entries] == [1.0] * 4
    assert all(math.isfinite(v) for entry in entries for v in entry.values())


# --- sampling and verification ------------------------------------------------------------------------------


def test_both_groups_are_sampled_in_one_call(
    make_trainer: MakeTrainer, problems: list[Problem], script: Script
) -> None:
    trainer = make_trainer(temperature=0.9, top_p=0.8, seed=7)
    groups = trainer._sample(problems)
    [(requests, sampling, seed)] = trainer.sampler.calls  # type: ignore[attr-defined]
    assert [request.count for request in requests] == [3, 3, 3, 5, 3, 3, 3, 3] + [2] * 7
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p) == (12, 0.9, 0.8)
    assert [group.problem for group in groups] == problems
    for group in groups:
        assert group.autonomous == script[tuple(group.prompt_ids)]
        if group.problem.strategy:
            assert group.guided_prompt_ids is not None
            assert group.guided == script[tuple(group.guided_prompt_ids)]
            assert group.guided_prompt_ids != group.prompt_ids
        else:
            assert (group.guided, group.guided_prompt_ids) == ([], None)
    trainer.state.global_step = 1
    assert trainer._sampling_seed() == seed  # the same rollout batch
    trainer.state.global_step = 2
    assert trainer._sampling_seed() != seed


def test_an_empty_strategy_is_none(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    trainer = make_trainer()
    (group,) = trainer._sample([trainer_module.replace(problems[3], strategy="")])
    assert (len(group.autonomous), group.guided, group.guided_prompt_ids) == (5, [], None)


def test_a_prompt_is_the_chat_template_and_nothing_more(
    make_trainer: MakeTrainer, problems: list[Problem], tokenizer: Any
) -> None:
    group = make_trainer()._sample(problems[:1])[0]
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    assert tokenizer.decode(group.prompt_ids) == f"<|system|>{system}<|end|><|user|>Compute 0+3<|end|><|assistant|>"
    assert tokenizer.decode(group.guided_prompt_ids) == (
        f"<|system|>{system}<|end|><|user|>Strategy for this kind of problem:\nSteps: (a) add\n\nProblem:\nCompute 0+3"
        "<|end|><|assistant|>"
    )


def test_rewards_are_those_of_the_plans(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    """A truncated completion gets 0 although its text is right."""
    trainer = make_trainer()
    for group, plans in zip(trainer._verify(trainer._sample(problems)), PLANS, strict=True):
        assert [rollout.reward for rollout in group.autonomous] == [full_reward(plan) for plan in plans[0]]
        assert [rollout.reward for rollout in group.guided] == [full_reward(plan) for plan in plans[1]]
        assert [rollout.truncated for rollout in group.guided] == [plan[0] == "cut" for plan in plans[1]]


def test_verdicts_are_logged_as_shares(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    trainer = make_trainer()
    trainer._verify(trainer._sample(problems))
    # another reward asks no verifier
    assert not any(name.startswith("verdicts/") for name in trainer.logbook.take())
    trainer.rewards = VERIFIER
    trainer._verify(trainer._sample(problems))
    shares = {name: value for name, value in trainer.logbook.take().items() if name.startswith("verdicts/")}
    assert list(shares) == ["verdicts/correct", "verdicts/wrong", "verdicts/unparsed", "verdicts/timeout"]
    assert shares["verdicts/timeout"] == 0.0
    assert sum(shares.values()) == pytest.approx(1.0)


def test_reward_functions_get_columns_and_weights(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    seen: dict[str, list[Any]] = {}

    def level(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        seen.update(columns, prompts=list(prompts), completions=list(completions))
        return [float(value) for value in columns["level"]]

    trainer = make_trainer()
    trainer.rewards = choose_rewards([last_digit_reward, level], [0.5, 0.25], "last_digit_reward")
    groups = trainer._verify(trainer._sample(problems))
    counts = [len(plans[0]) + len(plans[1]) for plans in PLANS]
    assert seen["answer"] == [p.answer for p, count in zip(problems, counts, strict=True) for _ in range(count)]
    assert seen["prompts"] == [p.prompt for p, count in zip(problems, counts, strict=True) for _ in range(count)]
    assert not any("<|end|>" in completion for completion in seen["completions"])
    for number, (group, plans) in enumerate(zip(groups, PLANS, strict=True)):
        for rollout, plan in zip(group.autonomous + group.guided, plans[0] + plans[1], strict=True):
            assert rollout.reward == (0.0 if plan[0] == "cut" else 0.5 * full_reward(plan) + 0.25 * number)


def test_reward_weights_are_given_to_the_constructor(
    make_config: Callable[..., SGPOConfig],
    checkpoint: Path,
    problems: list[Problem],
    script: Script,
    scripted_sampler: Any,
) -> None:
    trainer = SGPOTrainer(
        str(checkpoint),
        make_config(problems_per_rollout=8, correctness=["last_digit_reward"]),
        train_dataset=problems,
        reward_funcs=[last_digit_reward, last_digit_reward],
        reward_weights=[1.0, -0.25],
        sampler=scripted_sampler(script),
    )
    group = trainer._verify(trainer._sample(problems))[0]
    assert [rollout.reward for rollout in group.autonomous] == [0.75, 0.0, 0.0]


# --- metrics, evaluation, checkpoints -----------------------------------------------------------------------


def lines_of(trainer: SGPOTrainer) -> list[dict[str, Any]]:
    path = Path(trainer.args.output_dir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_file_by_hand(
    make_trainer: MakeTrainer, problems: list[Problem], tokenizer: Any, script: Script
) -> None:
    trainer, recorder = make_trainer(), Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    lines = [line for line in lines_of(trainer) if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for line, part, policy in zip(lines, updates_of(trainer, problems, tokenizer), recorder.policies, strict=True):
        plans = [PLANS[int(problem.id[1:])] for problem in part]
        reference = Reference(tokenizer, script, trainer.args)
        reference.loss(policy, recorder.policies[0], part)
        for group, completions in (("autonomous", 0), ("guided", 1)):
            flat = [completion for plan in plans for completion in plan[completions]]
            rate = sum(map(full_reward, flat)) / len(flat)
            assert line[f"reward/{group}"] == pytest.approx(rate, rel=1e-12)
            assert line[f"pass_rate/{group}"] == pytest.approx(rate, rel=1e-12)
            tokens = [length + (reward != "cut") for reward, length in flat]
            assert line[f"length/{group}"] == pytest.approx(sum(tokens) / len(flat), rel=1e-12)
            cut = [reward == "cut" for reward, _ in flat]
            assert line[f"truncated/{group}"] == pytest.approx(sum(cut) / len(flat), rel=1e-12)
        equal = [len({full_reward(plan) for plan in autonomous}) == 1 for autonomous, _ in plans]
        assert line["zero_variance_share"] == sum(equal) / 4
        has_target = [any(reward == 1 for reward, _ in guided) for _, guided in plans]
        assert line["target_share"] == sum(has_target) / 4
        assert line["alpha"] == pytest.approx(sum(reference.alphas) / 4, rel=1e-12)
        assert line["alpha_with_target"] == pytest.approx(sum(reference.alphas) / sum(has_target), rel=1e-12)
        distilled = [plan for plan, alpha in zip(plans, reference.alphas, strict=True) if alpha]
        assert distilled
        assert line["learning_rate"] == 1e-3
    first, second = lines
    assert first["clipped_share"] == 0.0
    assert second["clipped_share"] > 0.0
    # The seconds of sampling, verifying and assembling stand in the line of the update that did them.
    phases = {"seconds/sample", "seconds/verify", "seconds/assemble"}
    assert phases <= set(first)
    assert phases.isdisjoint(second)
    assert "seconds/optimise" in first.keys() & second.keys()
    common = {"loss", "grad_norm", "learning_rate", "epoch", "step", "entropy", "divergence", "divergence_masked_share"}
    assert common <= set(first) & set(second)
    assert 0.0 < first["entropy"] < math.log(len(tokenizer))


def test_metrics_of_tokens_by_hand(
    make_trainer: MakeTrainer, problems: list[Problem], tokenizer: Any, script: Script
) -> None:
    """One update of the two problems of which both terms have weight."""
    chosen = [problems[0], problems[4]]
    trainer = make_trainer(train_dataset=chosen, problems_per_rollout=2, updates_per_rollout=1, max_steps=1)
    policy = in_float64(trainer.model)
    reference = Reference(tokenizer, script, trainer.args)
    reference.loss(policy, policy, chosen)
    trainer.train()
    line = lines_of(trainer)[0]
    divergences = reference.divergences
    assert line["divergence"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-4)
    masked = [d > trainer.args.delta for d in divergences]
    assert line["divergence_masked_share"] == pytest.approx(sum(masked) / len(masked), rel=1e-6)
    entropies = []
    for problem in chosen:
        prompt = reference.encode(student_messages(problem.prompt))
        for rollout in script[tuple(prompt)]:
            logprobs = reference.distributions(policy, prompt, rollout.completion_ids)
            entropies += (-(logprobs.exp() * logprobs).sum(-1)).tolist()
    assert line["entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)


def test_logging_every_other_step_gives_means(make_trainer: MakeTrainer) -> None:
    each = make_trainer(max_steps=2)
    each.train()
    lines = [line for line in lines_of(each) if "loss" in line]
    other = make_trainer(max_steps=2, logging_steps=2, overwrite=True)
    other.train()
    (joined,) = [line for line in lines_of(other) if "loss" in line]
    for name in ("reward/autonomous", "alpha", "loss", "divergence"):
        assert joined[name] == pytest.approx((lines[0][name] + lines[1][name]) / 2, rel=1e-4), name


def test_evaluation_logs_avg_at_k(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    chosen = [problems[0], problems[2], problems[5]]  # rewards 1 0, 1 cut, 1 1 of the first two completions
    trainer = make_trainer(eval_dataset=chosen, eval_samples=2, eval_temperature=0.3, eval_top_p=0.7)
    metrics = trainer.evaluate()
    assert metrics["eval_avg_at_2"] == pytest.approx(2 / 3)
    assert metrics["eval_standard_error"] == pytest.approx(math.sqrt((1 / 36 + 1 / 36 + 1 / 9) / 2 / 3))
    assert metrics["eval_truncated"] == pytest.approx(1 / 6)
    assert metrics["eval_length"] == pytest.approx((5 + 4 + 5 + 7 + 5 + 3) / 6)
    requests, sampling, _ = trainer.sampler.calls[0]  # type: ignore[attr-defined]
    assert [request.count for request in requests] == [2, 2, 2]
    assert (sampling.temperature, sampling.top_p) == (0.3, 0.7)
    assert lines_of(trainer)[-1]["eval_avg_at_2"] == pytest.approx(2 / 3)


def test_evaluation_during_training(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    trainer = make_trainer(eval_dataset=problems[:2], eval_strategy="steps", eval_steps=2, eval_samples=3, max_steps=4)
    trainer.train()
    assert [line["step"] for line in lines_of(trainer) if "eval_avg_at_3" in line] == [2, 4]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [4]),
        ({"eval_strategy": "no"}, []),
        ({"eval_strategy": "steps", "eval_steps": 3}, [3, 4]),  # as transformers has it
        ({"eval_strategy": "steps", "eval_steps": 2, "eval_at_end": True}, [2, 4]),
        ({"eval_strategy": "epoch", "eval_at_end": True, "max_steps": 6, "problems_per_rollout": 6}, [2, 4, 6]),
        ({"eval_strategy": "no", "eval_at_end": True}, [4]),
        ({"eval_at_end": False}, []),
    ],
)
def test_evaluation_problems_without_a_schedule_are_for_the_end(
    make_trainer: MakeTrainer, problems: list[Problem], changes: dict[str, Any], steps: list[int]
) -> None:
    values = {"eval_samples": 2, "max_steps": 4, "save_strategy": "steps", **changes}
    trainer = make_trainer(eval_dataset=problems[:2], **values)
    trainer.train()
    assert [line["step"] for line in lines_of(trainer) if "eval_avg_at_2" in line] == steps
    assert Path(trainer.args.output_dir, f"checkpoint-{values['max_steps']}").is_dir()
    saved = yaml.safe_load(Path(trainer.args.output_dir, "config.yaml").read_text())
    again = make_trainer(eval_dataset=problems[:2], **{name: saved[name] for name in ("eval_strategy", "eval_at_end")})
    assert (again.args.eval_strategy, again.args.eval_at_end) == (saved["eval_strategy"], saved["eval_at_end"])


def test_without_evaluation_problems_the_end_has_no_evaluation(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.train()
    assert not [line for line in lines_of(trainer) if any(name.startswith("eval_") for name in line)]


def parity_reward(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(completion) % 2) for completion in completions]


@pytest.fixture
def make_sampling_trainer(
    make_config: Callable[..., SGPOConfig], checkpoint: Path, problems: list[Problem], tmp_path: Path
) -> MakeTrainer:
    """With the sampler of every run, in a folder."""

    def make(folder: str, **changes: Any) -> SGPOTrainer:
        # 12 problems, 4 a rollout batch: an epoch has 6 updates
        copies = [Problem(f"{p.id} {n}", f"{p.prompt}+{n}", "1", strategy=p.strategy) for n in (1, 2) for p in problems]
        values = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None, "learning_rate": 1e-3, **changes}
        config = make_config(output_dir=str(tmp_path / folder), max_completion_length=9, **values)
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        # Every fourth token ends a completion, or a model with random weights would hardly ever end one.
        model.generation_config.eos_token_id = list(range(1, model.config.vocab_size, 4))
        return SGPOTrainer(model, config, train_dataset=copies[:12], reward_funcs=parity_reward)

    return make


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of updates, without what no two runs share."""
    times = re.compile(r"seconds/|tokens_per_second/|.*(runtime|per_second|flos)")
    return [{k: v for k, v in line.items() if not times.match(k)} for line in lines if "loss" in line]


def assert_same_weights(left: Any, right: Any) -> None:
    for (name, one), other in zip(left.named_parameters(), right.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_resumed_run_equals_the_straight_one(make_sampling_trainer: MakeTrainer) -> None:
    """From a checkpoint within an epoch (4), and over the end of the epoch (6)."""
    straight = make_sampling_trainer("straight", max_steps=8)
    straight.train()
    lines = without_times(lines_of(straight))
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert len({line["grad_norm"] for line in lines}) == 8
    assert 0.0 not in {line["grad_norm"] for line in lines}
    first = make_sampling_trainer("halves", max_steps=4)
    before = copy.deepcopy(first.model)
    first.train()
    second = make_sampling_trainer("halves", max_steps=8)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 8
    assert without_times(lines_of(second)) == lines
    assert_same_weights(second.model, straight.model)
    moved = [(a - b).abs().max() for a, b in zip(before.parameters(), straight.model.parameters(), strict=True)]
    assert max(moved) > 1e-3


def test_repeated_steps_are_not_written_twice(make_sampling_trainer: MakeTrainer) -> None:
    """A run that goes on from before its end, as after a crash."""
    first = make_sampling_trainer("crashed", max_steps=6)
    first.train()
    lines = without_times(lines_of(first))
    second = make_sampling_trainer("crashed", max_steps=6)
    second.train(resume_from_checkpoint=str(Path(first.args.output_dir) / "checkpoint-2"))
    assert without_times(lines_of(second)) == lines
    assert_same_weights(second.model, first.model)


def test_a_run_that_replaces_another_starts_its_metrics_anew(make_trainer: MakeTrainer) -> None:
    for _ in range(2):
        trainer = make_trainer(overwrite=True)
        trainer.train()
        assert [line["step"] for line in lines_of(trainer) if "loss" in line] == [1, 2]


def test_cut_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    cut_metrics(path, 3)
    assert not path.exists()
    rows = [{"step": 1}, {"step": 2, "eval": 1}, {"step": 3}, {"step": 4}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cut_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2, "eval": 1}\n'
    cut_metrics(path, 0)
    assert path.read_text() == ""


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ppo"}, r"method is 'ppo'; choose one of grpo, hpt, luffy, sgpo"),
        ({"target_selection": "max"}, r"target_selection is 'max'; choose one of sum, mean"),
        ({"without_strategy": "keep"}, r"without_strategy is 'keep'; choose one of autonomous, drop"),
        ({"num_autonomous": 1}, r"num_autonomous must be at least 2"),
        ({"num_guided": 0}, r"num_guided must be at least 1 for sgpo; .* use method: grpo"),
        ({"problems_per_rollout": 7}, r"problems_per_rollout \(7\) must be a multiple of updates_per_rollout \(2\)"),
        ({"updates_per_rollout": 0}, r"must be a multiple of updates_per_rollout \(0\)"),
        ({"gradient_accumulation_steps": 2}, r"gradient_accumulation_steps must be 1: .* max_tokens_per_microbatch"),
        ({"delta": 0.0}, r"delta must be positive; for no clipping write delta: .inf"),
        ({"problems_per_rollout": 0}, r"problems_per_rollout \(0\) must be a multiple"),
        ({"save_strategy": "steps", "save_steps": 3}, r"save_steps \(3\) must be a multiple of updates_per_rollout"),
        ({"save_strategy": "steps", "save_steps": 0.5}, r"save_steps \(0\.5\) must be a multiple"),
        ({"max_steps": 3}, r"max_steps \(3\) must be a multiple of updates_per_rollout \(2\)"),
    ],
)
def test_configuration_refuses(make_config: Callable[..., SGPOConfig], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_configuration_accepts_the_edges(make_config: Callable[..., SGPOConfig]) -> None:
    make_config(method="grpo", num_guided=0)
    make_config(delta=math.inf)
    make_config(save_strategy="no", save_steps=3)
    make_config(save_strategy="steps", save_steps=4, max_steps=-1)
    config = make_config(problems_per_rollout=12, updates_per_rollout=3, max_steps=6)
    assert config.per_device_train_batch_size == 4


def test_configuration_has_the_defaults_of_the_paper(tmp_path: Path) -> None:
    config = SGPOConfig(output_dir=str(tmp_path), use_cpu=True)
    expected = {
        "method": "sgpo",
        "num_autonomous": 8,
        "num_guided": 4,
        "problems_per_rollout": 128,
        "updates_per_rollout": 2,
        "per_device_train_batch_size": 64,
        "max_completion_length": 16384,
        "temperature": 1.0,
        "top_p": 0.95,
        "eps_low": 0.2,
        "eps_high": 0.28,
        "delta": 1.0,
        "alpha_scale": 0.5,
        "alpha_smoothing": 0.1,
        "alpha_max": 0.8,
        "target_selection": "sum",
        "without_strategy": "autonomous",
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "num_train_epochs": 10.0,
        "eval_samples": 4,
        "eval_temperature": 0.6,
        "eval_top_p": 0.95,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_problems_without_any_strategy_are_refused(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    bare = [trainer_module.replace(p, strategy=None) for p in problems]
    with pytest.raises(ValueError, match=r"method sgpo needs strategies, and no problem has one; .* method: grpo"):
        make_trainer(train_dataset=bare)
    make_trainer(train_dataset=bare, method="grpo")


def test_problems_without_a_strategy_are_counted_or_dropped(
    make_trainer: MakeTrainer, problems: list[Problem], capsys: pytest.CaptureFixture[str]
) -> None:
    assert make_trainer().train_dataset == problems
    assert "7 of 8 problems have a strategy." in capsys.readouterr().out
    dropped = make_trainer(without_strategy="drop", problems_per_rollout=4)
    assert dropped.train_dataset == [p for p in problems if p.strategy]


def test_tokenizer_without_chat_template_is_refused(
    make_config: Callable[..., SGPOConfig], checkpoint: Path, tokenizer: Any, problems: list[Problem]
) -> None:
    for attribute, message in (("chat_template", "no chat template"), ("eos_token", "no eos_token")):
        changed = copy.deepcopy(tokenizer)
        setattr(changed, attribute, None)
        with pytest.raises(ValueError, match=message):
            SGPOTrainer(str(checkpoint), make_config(), train_dataset=problems, processing_class=changed)


def test_the_engine_is_asked_once_and_not_before_the_data(
    make_config: Callable[..., SGPOConfig],
    checkpoint: Path,
    problems: list[Problem],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server may take minutes to answer."""
    asked: list[SGPOConfig] = []
    monkeypatch.setattr(trainer_module, "check_engine", asked.append)
    args = make_config(problems_per_rollout=8)
    with pytest.raises(ValueError, match="6 problems do not fill a rollout batch of 8"):
        SGPOTrainer(str(checkpoint), args, problems[:6])
    assert asked == []
    SGPOTrainer(str(checkpoint), args, problems)
    assert asked == [args]


def test_too_few_problems_are_refused_at_once(make_trainer: MakeTrainer, problems: list[Problem]) -> None:
    with pytest.raises(ValueError, match="6 problems do not fill a rollout batch of 8; lower problems_per_rollout"):
        make_trainer(train_dataset=problems[:6])


def test_what_was_not_given_is_asked_for(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    with pytest.raises(ValueError, match="evaluation needs an eval_dataset"):
        trainer.evaluate()
    trainer.train_dataset = None
    with pytest.raises(ValueError, match="training needs a train_dataset"):
        trainer.get_train_dataloader()


# --- which problems form a rollout batch --------------------------------------------------------------------


def test_rollout_batches_repeat_for_their_updates() -> None:
    sampler = RolloutBatchSampler(11, 4, 2, seed=3)
    epoch = list(sampler)
    assert len(epoch) == len(sampler) == 4
    assert epoch[0] == epoch[1]
    assert epoch[2] == epoch[3]
    assert len(set(epoch[0] + epoch[2])) == 8
    assert list(sampler) == epoch
    sampler.set_epoch(1)
    assert list(sampler) != epoch
