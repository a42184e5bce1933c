"""Methods of other papers: loss and gradient against docs/methods.md in float64, and limits that must hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_cases import VOCABULARY, distance
from group_cases import LONGEST, rollout_groups
from loss_cases import F64, Written, expected, ours
from method_cases import decided, scores, weights_of
from torch import Tensor

from sgpo.methods.ampo import before_answer
from sgpo.methods.records import ProblemRollouts
from sgpo.methods.registry import METHODS
from sgpo.problems import Problem
from sgpo.sampling.records import Rollout

SIZES: dict[str, Any] = {"num_autonomous": 4, "num_guided": 1, "max_completion_length": LONGEST}


class Reference(Written):
    """The formulas of docs/methods.md."""

    @property
    def teacher(self) -> Any:
        return self.policy

    def entropies_of(self, model: Any, group: ProblemRollouts, rollout: Any) -> Tensor:
        logprobs = self.distributions(model, group.prompt_ids, rollout)
        return -(logprobs.exp() * logprobs).sum(-1)

    def srft(self, groups: list[ProblemRollouts]) -> Tensor:
        """Its SFT is a mean over the expert tokens of the update, the rest a sum over tokens divided by L."""
        authors = self.config.normalization == "authors"
        total, of_experts, bonuses = torch.zeros((), dtype=F64), [], []
        for group in groups:
            mixed = [*group.autonomous, *group.experts]
            rewards = [o.reward for o in mixed]
            for o in mixed:
                logp = self.chosen(self.policy, group.prompt_ids, o)
                share = 1 / LONGEST if authors else 1 / (len(groups) * len(mixed) * len(logp))
                of_tokens = self.entropies_of(self.policy, group, o)
                bonuses.append(of_tokens if authors else of_tokens.sum() * share)
                entropy = self.entropies_of(self.old, group, o).mean().detach()
                if o in group.experts:
                    advantage = self.advantages(rewards, std=not authors)[-1]
                    total = total - advantage * (logp.exp() / (logp.exp() + 0.1)).sum() * share
                    weighted = -0.5 * (-entropy).exp() * logp
                    of_experts.append(weighted if authors else weighted.mean() / len(groups))
                else:
                    weight = 0.1 * entropy.exp() if o.correct else -1.0
                    total = total - weight * logp.sum() * share
        if of_experts:
            total = total + (torch.cat(of_experts).mean() if authors else sum(of_experts))
        entropy = torch.cat(bonuses).mean() if authors else torch.stack(bonuses).sum()
        return total - self.config.entropy_coefficient * entropy

    def ampo(self, groups: list[ProblemRollouts]) -> Tensor:
        """Of `failing_groups`: responses 1 and 3 of the second problem take the place of its last two completions."""
        authors = self.config.normalization == "authors"
        total, bonuses = torch.zeros((), dtype=F64), []
        for number, group in enumerate(groups):
            experts = [group.experts[1], group.experts[3]] if number == 1 and len(group.experts) > 2 else []
            experts = group.experts if number == 1 and len(group.experts) <= 2 else experts
            own = group.autonomous[: len(group.autonomous) - len(experts)]
            rewards = [o.reward for o in own] + [max(o.reward, 1.0) for o in experts]
            advantages = self.advantages(rewards, std=not authors)
            for advantage, o in zip(advantages, [*own, *experts], strict=True):
                count = len(o.completion_ids)
                share = 1 / LONGEST if authors else 1 / (len(groups) * len(rewards) * count)
                p = self.chosen(self.policy, group.prompt_ids, o).exp()
                if any(o is each for each in experts):
                    values = advantage * p / (p + 0.1)
                else:
                    rho = self.ratio(group, o)
                    values = torch.minimum(rho * advantage, rho.clamp(0.8, 1.2) * advantage)
                total = total - values.sum() * share
                entropy = self.entropies_of(self.policy, group, o)
                bonuses.append(entropy if authors else entropy.sum() * share)
        entropy = torch.cat(bonuses).mean() if authors else torch.stack(bonuses).sum()
        return total - self.config.entropy_coefficient * entropy

    def opsd(self, groups: list[ProblemRollouts]) -> Tensor:
        of_tokens = []
        for group in groups:
            for o in group.autonomous if "informed" in group.prompts else []:
                teacher = self.distributions(self.teacher, group.prompts["informed"], o).detach()
                student = self.distributions(self.policy, group.prompt_ids, o)
                of_tokens.append(self.between(teacher, student, self.config.divergence))
        return torch.cat(of_tokens).mean()

    @staticmethod
    def between(teacher: Tensor, student: Tensor, kind: str) -> Tensor:
        mean = ((teacher.exp() + student.exp()) / 2).log()
        kinds = {
            "forward_kl": teacher.exp() * (teacher - student),
            "reverse_kl": student.exp() * (student - teacher),
            "jensen_shannon": (teacher.exp() * (teacher - mean) + student.exp() * (student - mean)) / 2,
        }
        return kinds[kind].sum(-1)

    def sdpo(self, groups: list[ProblemRollouts]) -> Tensor:
        """A completion learns from the first correct one that is another."""
        letters, of_tokens = Letters(), []
        for group in groups:
            for o in group.autonomous:
                others = [other for other in group.autonomous if other.correct and other is not o]
                if others:
                    solution = "".join(chr(97 + i) for i in others[0].completion_ids)
                    text = f"S|?\n\nA correct solution:\n\n{solution}\n\nNow solve the problem correctly.|"
                    teacher = self.distributions(self.teacher, letters(text)["input_ids"], o).detach()
                    student = self.distributions(self.policy, group.prompt_ids, o)
                    of_tokens.append(self.between(teacher, student, self.config.divergence))
        return torch.cat(of_tokens).mean()

    def scaf_grpo(self, groups: list[ProblemRollouts]) -> Tensor:
        """Of `hinted_groups`: the second problem's last completion makes room for that of the second hint."""
        total = torch.zeros((), dtype=F64)
        for number, group in enumerate(groups):
            pairs = [(group.prompt_ids, o) for o in group.autonomous]
            if number == 1:
                pairs[-1] = group.prompts["type_and_strategy"], group.groups["type_and_strategy"][0]
            advantages = self.advantages([o.reward for _, o in pairs], std=True)
            for advantage, (prompt, o) in zip(advantages, pairs, strict=True):
                old = self.chosen(self.old, prompt, o).detach()
                rho = (self.chosen(self.policy, prompt, o) - old).exp()
                values = torch.minimum(rho * advantage, rho.clamp(0.8, 1.2) * advantage)
                total = total - values.mean() / (len(groups) * len(pairs))
        return total


class OldTeacher(Reference):
    """With another model on the fixed side."""

    @property
    def teacher(self) -> Any:
        return self.old


@pytest.mark.parametrize("normalization", ["authors", "grpo"])
@pytest.mark.parametrize("experts", [True, False])
def test_srft(normalization: str, experts: bool) -> None:
    config = METHODS["srft"].options(**SIZES, normalization=normalization, entropy_coefficient=0.2)
    loss, gradients = ours("srft", rollout_groups(experts), config)
    expected_loss, expected_gradients, _ = expected(Reference, "srft", rollout_groups(experts), config)
    assert loss == pytest.approx(expected_loss, rel=2e-6, abs=1e-6)
    assert distance(gradients, expected_gradients) < 3e-6


def test_srft_treats_the_expert_as_luffy_and_hpt_do() -> None:
    """Its shaped row is that of LUFFY; its likelihood row, where entropy is 0, half of that of HPT."""
    groups = rollout_groups()

    def rows(method: str, term: str, **options: Any) -> list[list[float]]:
        found = decided(METHODS[method], groups, METHODS[method].options(**SIZES, **options), certain)
        return [weights_of(row) for row in found.sequences if row.term == term]

    def certain(pairs: Any) -> Any:
        return [scores([0.0] * len(ids)) for _, ids in pairs]

    assert rows("srft", "shaped") == [pytest.approx(row) for row in rows("luffy", "shaped")]
    groups = [group for group in groups if not all(o.correct for o in group.autonomous)]
    halves = [[weight / 2 for weight in row] for row in rows("hpt", "likelihood", hpt_gate=0.9)]
    assert rows("srft", "likelihood") == [pytest.approx(row) for row in halves]


def informed(groups: list[ProblemRollouts]) -> list[ProblemRollouts]:
    """All but the last with a prompt that holds a response."""
    found = [replace(group, prompts={**group.prompts, "informed": [7, *group.prompts["guided"]]}) for group in groups]
    return [*found[:-1], groups[-1]]


@pytest.mark.parametrize("divergence", ["jensen_shannon", "reverse_kl", "forward_kl"])
def test_opsd(divergence: str) -> None:
    config = METHODS["opsd"].options(**SIZES, divergence=divergence)
    loss, gradients = ours("opsd", informed(rollout_groups()), config)
    expected_loss, expected_gradients, _ = expected(Reference, "opsd", informed(rollout_groups()), config)
    assert loss == pytest.approx(expected_loss, rel=2e-6, abs=1e-6)
    assert distance(gradients, expected_gradients) < 3e-6


@pytest.mark.parametrize("divergence", ["jensen_shannon", "reverse_kl", "forward_kl"])
def test_a_teacher_that_is_another_model(divergence: str) -> None:
    config = METHODS["opsd"].options(**SIZES, divergence=divergence)
    loss, gradients = ours("opsd", informed(rollout_groups()), config, old_teacher=True)
    expected_loss, expected_gradients, _ = expected(OldTeacher, "opsd", informed(rollout_groups()), config)
    assert loss == pytest.approx(expected_loss, rel=2e-6, abs=1e-6)
    assert distance(gradients, expected_gradients) < 3e-6
    other, _ = ours("opsd", informed(rollout_groups()), config)
    assert abs(loss - other) > 5e-4


def test_opsd_learns_nothing_from_a_prompt_that_says_nothing() -> None:
    groups = [replace(group, prompts={**group.prompts, "informed": group.prompt_ids}) for group in rollout_groups()]
    loss, gradients = ours("opsd", groups, METHODS["opsd"].options(**SIZES))
    assert loss == pytest.approx(0.0, abs=1e-7)
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-7


def test_the_prompt_of_opsd_holds_the_first_response() -> None:
    prompt = METHODS["opsd"].all_prompts["informed"]
    found = prompt(Problem("1", "What is 2+2?", "4", response="Four.", more_responses=("4",)), None)
    assert found is not None
    assert found[0]["content"] == (
        "Problem:\nWhat is 2+2?\n\nA reference solution:\nFour.\n\nSolve the problem step by step, in your own words."
    )
    assert prompt(Problem("1", "What is 2+2?", "4"), None) is None


class Letters:
    """A tokenizer of single characters, whose turns end with a bar."""

    def __call__(self, text: Any, add_special_tokens: bool = True) -> dict[str, Any]:
        if not isinstance(text, str):
            return {"input_ids": [self(each)["input_ids"] for each in text]}
        return {"input_ids": [1 + ord(letter) % (VOCABULARY - 1) for letter in text]}

    def apply_chat_template(self, conversations: Any, **options: Any) -> list[str]:
        return ["".join(f"{turn['content']}|" for turn in turns) for turns in conversations]

    def batch_decode(self, many: list[list[int]], **options: Any) -> list[str]:
        return ["".join(chr(97 + i) for i in ids) for ids in many]


def failing_groups(experts: int) -> list[ProblemRollouts]:
    """`rollout_groups`, whose second problem is never solved, with several responses."""
    source = torch.Generator().manual_seed(3)
    found = []
    for number, group in enumerate(rollout_groups()):
        texts = [f"{'so ' * n}\\boxed{{{'7' if n % 2 else '1'}}}" for n in range(experts)]
        rollouts = [
            Rollout(
                torch.randint(1, VOCABULARY, (n + 2,), generator=source).tolist(), None, False, reward=0.5 * (n == 3)
            )
            for n in range(experts)
        ]
        problem = Problem(str(number), "?", "12", response=texts[0] if texts else None, more_responses=tuple(texts[1:]))
        found.append(replace(group, problem=problem, experts=rollouts))
    return found


@pytest.mark.parametrize("normalization", ["authors", "grpo"])
@pytest.mark.parametrize("experts", [4, 1, 0])
def test_ampo(normalization: str, experts: int) -> None:
    sizes = {**SIZES, "normalization": normalization, "entropy_coefficient": 0.2, "eps_high": 0.2}
    config = METHODS["ampo"].options(**sizes)
    groups = failing_groups(experts)
    ranking: dict[int, float] = {0: -2.0, 1: -0.5, 2: -1.0, 3: -0.25}
    asked = []

    def choosing(pairs: Any) -> Any:
        asked.append(pairs)
        return [scores([ranking[number], -9.0]) for number, _ in enumerate(pairs)]

    loss, gradients = ours("ampo", groups, config, deciding={"scorer": choosing, "tokenizer": Letters()})
    expected_loss, expected_gradients, _ = expected(Reference, "ampo", groups, config)
    assert loss == pytest.approx(expected_loss, rel=2e-6, abs=1e-6)
    assert distance(gradients, expected_gradients) < 3e-6
    assert [len(pairs) for pairs in asked] == [experts if experts > 2 else 0]
    encode = Letters()
    for pair, n in zip(asked[0], range(experts), strict=False):
        before = encode(f"{'so ' * n}\\boxed{{")["input_ids"]
        assert pair == ([*groups[1].prompt_ids, *before], encode("12")["input_ids"])


def test_ampo_without_a_failing_group_is_grpo() -> None:
    solved = [group for group in failing_groups(4) if any(o.correct for o in group.autonomous)]
    config = METHODS["ampo"].options(**SIZES, normalization="grpo", entropy_coefficient=0.0)
    of_grpo = METHODS["grpo"].options(**SIZES)
    rows = [
        decided(METHODS[name], solved, options, lambda _: []).sequences
        for name, options in (("ampo", config), ("grpo", of_grpo))
    ]
    assert [(row.term, row.completion_ids) for row in rows[0]] == [(row.term, row.completion_ids) for row in rows[1]]
    assert [weights_of(row) for row in rows[0]] == [pytest.approx(weights_of(row)) for row in rows[1]]


@pytest.mark.parametrize(
    ("response", "before"),
    [
        ("so \\boxed{4}", "so \\boxed{"),
        ("\\boxed{1} and \\boxed{\\frac{1}{2}}.", "\\boxed{1} and \\boxed{"),
        ("four", "four\n\\boxed{"),
    ],
)
def test_where_the_answer_of_a_response_begins(response: str, before: str) -> None:
    assert before_answer(response) == before


@pytest.mark.parametrize("divergence", ["jensen_shannon", "reverse_kl", "forward_kl"])
def test_sdpo(divergence: str) -> None:
    config = METHODS["sdpo"].options(**SIZES, divergence=divergence)
    deciding = {"tokenizer": Letters(), "system_prompt": "S"}
    loss, gradients = ours("sdpo", rollout_groups(), config, deciding)
    expected_loss, expected_gradients, _ = expected(Reference, "sdpo", rollout_groups(), config)
    assert loss == pytest.approx(expected_loss, rel=2e-6, abs=1e-6)
    assert distance(gradients, expected_gradients) < 3e-6


def test_who_is_taught_by_sdpo() -> None:
    """Beside one correct completion the others alone; without one, or with too long a prompt, nobody."""
    found = decided(METHODS["sdpo"], rollout_groups(), METHODS["sdpo"].options(**SIZES), tokenizer=Letters())
    assert found.metric("taught_share") == [0.75, 0.0, 1.0, 0.75, 1.0]
    assert len({weight for row in found.sequences for weight in weights_of(row)}) == 1
    short = METHODS["sdpo"].options(**SIZES, sdpo_prompt_length=20)
    assert decided(METHODS["sdpo"], rollout_groups(), short, tokenizer=Letters()).sequences == []


HINTS = ("problem_type", "type_and_strategy", "whole_strategy", "informed")


def hinted_groups(*, correct: str = "0110") -> list[ProblemRollouts]:
    """`rollout_groups`, each with a completion of each hint; which of them are correct is the same in all.

    Wrong ones have rewards too: with hints, and one of the second problem, which is never solved.
    """
    source = torch.Generator().manual_seed(8)
    found = []
    for group in rollout_groups():
        if not any(o.correct for o in group.autonomous):
            first, *others = group.autonomous
            group = replace(group, groups={**group.groups, "autonomous": [replace(first, reward=0.25), *others]})
        ids = [torch.randint(1, VOCABULARY, (6 + n,), generator=source).tolist() for n in range(2 * len(HINTS))]
        rollouts = [
            Rollout(each, None, truncated=False, reward=0.5 + 0.5 * (right == "1"), correct=right == "1")
            for each, right in zip(ids[::2], correct, strict=True)
        ]
        prompts = {"autonomous": group.prompt_ids, **dict(zip(HINTS, ids[1::2], strict=True))}
        groups = {"autonomous": group.autonomous, **{n: [o] for n, o in zip(HINTS, rollouts, strict=True)}}
        found.append(replace(group, prompts=prompts, groups=groups))
    return found


def test_scaf_grpo() -> None:
    """Only the second problem fails; the smallest of its two correct hints is the second."""
    config = METHODS["scaf_grpo"].options(num_autonomous=4, num_guided=4, eps_high=0.2, scaf_exempt_updates=0)
    loss, gradients = ours("scaf_grpo", hinted_groups(), config)
    expected_loss, expected_gradients, _ = expected(Reference, "scaf_grpo", hinted_groups(), config)
    assert loss == pytest.approx(expected_loss, rel=2e-6, abs=1e-6)
    assert distance(gradients, expected_gradients) < 3e-6
    found = decided(METHODS["scaf_grpo"], hinted_groups(), config)
    assert found.metric("hinted_share") == [0, 1, 0, 0, 0]
    assert found.metric("hint_level") == [None, 2, None, None, None]
    assert found.decisions[1].reason == (
        "none of 4 autonomous completions is correct; that with type_and_strategy takes the place of one"
    )


@pytest.mark.parametrize("why", ["exempt", "no hint helps", "nobody fails"])
def test_scaf_grpo_without_a_hint_is_grpo(why: str) -> None:
    groups = hinted_groups(correct="0000" if why == "no hint helps" else "0110")
    groups = [group for group in groups if why != "nobody fails" or any(o.correct for o in group.autonomous)]
    config = METHODS["scaf_grpo"].options(**SIZES, scaf_exempt_updates=3)
    state = {"updates": 2 if why == "exempt" else 3}
    found = decided(METHODS["scaf_grpo"], groups, config, state=state).sequences
    rows = decided(METHODS["grpo"], groups, METHODS["grpo"].options(**SIZES)).sequences
    assert [(row.term, row.prompt_ids, row.completion_ids) for row in found] == [
        (row.term, row.prompt_ids, row.completion_ids) for row in rows
    ]
    assert [weights_of(row) for row in found] == [weights_of(row) for row in rows]
    assert state == {"updates": 3 if why == "exempt" else 4}


STRATEGY = "Problem type: sums\nStrategy: add the units first\nSteps: (a) add (b) check"


@pytest.mark.parametrize(
    ("strategy", "response", "hints", "counts"),
    [
        (STRATEGY, "So 4.", 4, {"autonomous": 8, **dict.fromkeys(HINTS, 1)}),
        (STRATEGY, "So 4.", 2, {"autonomous": 8, **dict.fromkeys(HINTS[:2], 1)}),
        (STRATEGY, None, 4, {"autonomous": 9, **dict.fromkeys(HINTS[:3], 1)}),
        ("Just add.", "So 4.", 4, {"autonomous": 10, "whole_strategy": 1, "informed": 1}),
        (None, "So 4.", 4, {"autonomous": 11, "informed": 1}),
        (None, None, 4, {"autonomous": 12}),
    ],
)
def test_the_hints_of_scaf_grpo(strategy: str | None, response: str | None, hints: int, counts: dict[str, int]) -> None:
    method, problem = METHODS["scaf_grpo"], Problem("1", "2+2?", "4", strategy=strategy, response=response)
    assert method.sample_counts(problem, method.options(num_guided=hints)) == counts
    said = {name: prompt(problem, "Think.") for name, prompt in method.all_prompts.items()}
    assert all(turns[0] == {"role": "system", "content": "Think."} for turns in said.values() if turns)
    if strategy == STRATEGY:
        first, second, third = (said[name][1]["content"] for name in HINTS[:3])
        assert "Problem type: sums\n\nProblem:\n2+2?" in first
        assert "Problem type: sums\nStrategy: add the units first\n\nProblem:\n2+2?" in second
        assert f"{STRATEGY}\n\nProblem:\n2+2?" in third


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_guided": 0}, "num_guided is 0; it is the number of hints here, 1 to 4"),
        ({"num_guided": 5}, "num_guided is 5; it is the number of hints here, 1 to 4"),
        ({"scaf_exempt_updates": -1}, "scaf_exempt_updates is -1; it must be 0 or positive"),
    ],
)
def test_options_that_scaf_grpo_refuses(changes: dict[str, int], said: str) -> None:
    assert list(METHODS["scaf_grpo"].options(**changes).refusals()) == [said]
