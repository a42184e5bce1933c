"""The losses of sgpo sft in float64, their limits, and runs that go on from a checkpoint."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_cases import distance
from torch import Tensor
from transformers import AutoModelForCausalLM

from sgpo.problems import Problem
from sgpo.training.sft import OTHER_LOGPROBS, WarmupConfig, WarmupTrainer, build_warmup_trainer
from sgpo.training.sft_losses import LOSSES, SFTLossArguments

F64 = torch.float64
PROBLEMS = [
    Problem(f"p{n}", f"Compute {n}+{n + 3}", str(2 * n + 3), f"{'(a) add: ' * (n % 3)}\\boxed{{{2 * n + 3}}}")
    for n in range(12)
]


@pytest.fixture
def make_trainer(checkpoint: Path, tmp_path: Path) -> Callable[..., WarmupTrainer]:
    def make(folder: str = "run", **changes: Any) -> WarmupTrainer:
        values: dict[str, Any] = {
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "per_device_train_batch_size": 2,
            "num_train_epochs": 2,
            "max_length": 64,
            "validation_share": 0.1,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "load_best_model_at_end": False,
            **changes,
        }
        return build_warmup_trainer(
            str(checkpoint), WarmupConfig(output_dir=str(tmp_path / folder), **values), PROBLEMS
        )

    return make


def moved(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))


def in_float64(model: Any) -> Any:
    """A new one, since TRL's forward of a copy would call the model that was copied."""
    found = AutoModelForCausalLM.from_config(model.config).to(F64).eval()
    found.load_state_dict(model.state_dict())
    return found


def responses(model: Any, batch: dict[str, Any]) -> list[Tensor]:
    """log p of the tokens of each response, from full logits."""
    found = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        ids, labels = ids[mask.bool()][None], labels[mask.bool()]
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        learnt = labels[1:] != -100
        found.append(logprobs[learnt].gather(-1, labels[1:][learnt][:, None]).squeeze(-1))
    return found


def written_out(loss: str, policy: list[Tensor], other: list[Tensor]) -> Tensor:
    """The loss of an update by the formulas of the papers."""
    of_tokens = []
    for p, q in zip(policy, other, strict=True):
        ratio = (p - q).exp()
        of_tokens.append(
            {
                "nll": -p,
                "dft": -p.exp().detach() * p,
                "iw": -min(float((p - q).detach().mean().exp()), WEIGHT) * p,
                "psft": -torch.minimum(ratio, ratio.clamp(0.8, 1.28)),
            }[loss]
        )
    return torch.cat(of_tokens).mean()


WEIGHT = 0.97  # the largest weight, so low that some responses reach it


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_of_a_batch(make_trainer: Callable[..., WarmupTrainer], loss: str) -> None:
    trainer = make_trainer(loss=loss, **({"iw_max": WEIGHT} if loss == "iw" else {}), per_device_train_batch_size=8)
    model = trainer.model.train()
    before = copy.deepcopy(model)
    moved(model, 1)
    if loss == "psft":
        moved(before, 2)
    batch = next(iter(trainer.get_train_dataloader()))
    tokens = (batch["labels"][:, 1:] != -100).sum()
    given = batch | ({OTHER_LOGPROBS: trainer._logprobs(before, batch)} if loss == "psft" else {})
    found = trainer.compute_loss(model, given, num_items_in_batch=tokens)
    found.backward()

    exact, others = in_float64(model), in_float64(before)
    with torch.no_grad():
        other = responses(others, batch)
    policy = responses(exact, batch)
    expected = written_out(loss, policy, other)
    expected.backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    gradients = [[p.grad for p in some.parameters() if p.grad is not None] for some in (model, exact)]
    assert distance(*gradients) < 1e-5
    gaps = torch.cat([p - q for p, q in zip(policy, other, strict=True)]).detach().exp()
    if loss == "psft":  # guards: both sides of the bound occur
        assert {bool(each) for each in gaps > 1.28} == {True, False}
        assert trainer._metrics["train"]["clipped_share"] == [pytest.approx(float((gaps > 1.28).double().mean()))]
    if loss == "iw":
        means = [float((p - q).mean().exp()) for p, q in zip(policy, other, strict=True)]
        assert {each > WEIGHT for each in means} == {True, False}


def slopes(loss: str, logprobs: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    logprobs = logprobs.clone().requires_grad_()
    losses, _ = LOSSES[loss].of_tokens(logprobs, other, torch.ones_like(other, dtype=torch.bool), SFTLossArguments())
    losses.sum().backward()
    assert logprobs.grad is not None
    return losses.detach(), logprobs.grad


def test_limits() -> None:
    """DFT of a certain token, iw-SFT at the reference and PSFT at the old policy have the gradient of SFT."""
    some = torch.tensor([[-0.5, -2.0, -0.1]], dtype=F64)
    certain = torch.zeros_like(some)
    assert slopes("dft", certain, certain)[1].tolist() == [[-1.0, -1.0, -1.0]]
    assert slopes("dft", some, some)[1].tolist() == [pytest.approx((-some.exp()).tolist()[0])]
    for loss in ("nll", "iw", "psft"):
        assert slopes(loss, some, some)[1].tolist() == [[-1.0, -1.0, -1.0]]
    assert slopes("iw", some, some)[0].tolist() == slopes("nll", some, some)[0].tolist()


def test_a_response_weighs_by_the_mean_of_its_own_tokens() -> None:
    logprobs, reference = torch.zeros(2, 3, dtype=F64), torch.tensor([[-1.0, -3.0, 9.0], [-9.0, 9.0, 9.0]], dtype=F64)
    tokens = torch.tensor([[True, True, False], [True, False, False]])
    _, measures = LOSSES["iw"].of_tokens(logprobs, reference, tokens, SFTLossArguments())
    assert measures["response_weight"][:, 0].tolist() == pytest.approx([torch.tensor(2.0).exp().item(), 16.0])


def without_times(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = re.compile(r".*(runtime|per_second|flos|tokens)")
    return [{k: v for k, v in line.items() if not times.match(k)} for line in log if "loss" in line]


@pytest.mark.parametrize("loss", ["dft", "iw", "psft"])
def test_a_resumed_run_equals_the_straight_one(make_trainer: Callable[..., WarmupTrainer], loss: str) -> None:
    """From a checkpoint within the second epoch. 10 rows are 5 updates; old policies begin at 0, 2, 4, 5, 6 and 8."""
    steps = {"psft_updates": 2} if loss == "psft" else {}
    options = {"loss": loss, "save_strategy": "steps", "save_steps": 2, "save_total_limit": None, **steps}
    straight = make_trainer("straight", **options)
    straight.train()
    lines = without_times(straight.state.log_history)
    assert [line["step"] for line in lines] == list(range(1, 11))
    resumed = make_trainer("straight", **options)
    resumed.train(resume_from_checkpoint=str(Path(resumed.args.output_dir) / "checkpoint-6"))
    assert without_times(resumed.state.log_history) == lines
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_old_policy_serves_some_updates(make_trainer: Callable[..., WarmupTrainer]) -> None:
    """The loss is exactly -1 where the old policy is the present one; a new epoch begins with a new one."""
    trainer = make_trainer(loss="psft", psft_updates=2, save_strategy="no", warmup_steps=0)
    trainer.train()
    fresh = [line["step"] for line in trainer.state.log_history if line.get("loss") == pytest.approx(-1.0, abs=1e-6)]
    assert fresh == [1, 3, 5, 6, 7, 9]


def test_validation_measures_the_likelihood(make_trainer: Callable[..., WarmupTrainer]) -> None:
    found = {loss: make_trainer(loss, loss=loss).evaluate()["eval_loss"] for loss in LOSSES}
    assert len(set(found.values())) == 1


def test_what_the_launcher_divides_is_refused_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    monkeypatch.setenv("PARALLELISM_CONFIG_CP_SIZE", "2")
    for loss in LOSSES:
        with pytest.raises(ValueError, match=r"^context parallelism \(cp_size 2\) is not supported: [^\n]*$"):
            WarmupConfig(output_dir=str(tmp_path), use_cpu=True, loss=loss)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "ppo"}, "loss is 'ppo'; choose one of nll, dft, iw, psft"),
        ({"loss": "dft", "iw_max": 2.0}, "iw_max belongs to loss iw; dft does not use it: leave it out"),
        ({"loss_type": "dft"}, "loss_type is 'dft'; choose the loss by its one name here: loss: dft"),
        ({"loss": "dft", "label_smoothing_factor": 0.1}, "label_smoothing_factor is of loss nll alone"),
        ({"loss": "iw", "fsdp": "full_shard"}, "a copy of the model of before, which is not sharded: leave fsdp out"),
        *(
            (
                {"loss": loss, "deepspeed": {"zero_optimization": {"stage": 3}}},
                f"loss {loss} is not supported with deepspeed: divide the model with fsdp: full_shard",
            )
            for loss in ("dft", "iw", "psft")
        ),
        (
            {"parallelism_config": {"cp_size": 2}},
            r"context parallelism \(cp_size 2\) is not supported: the losses need",
        ),
        (
            {"parallelism_config": {"sp_size": 4}},
            r"Ulysses parallelism \(sp_size 4\) is not supported: the losses need",
        ),
        ({"loss": "iw", "packing": True}, "loss iw weighs whole responses: leave packing and padding_free out"),
        ({"loss": "iw", "iw_max": 0.0}, "iw_max is 0.0; it must be positive"),
        ({"loss": "psft", "psft_updates": 0}, "psft_updates is 0; it must be at least 1"),
        (
            {"loss": "psft", "save_strategy": "steps", "save_steps": 12},
            r"save_steps \(12\) must be a multiple of psft_updates \(8\)",
        ),
    ],
)
def test_refusals(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WarmupConfig(output_dir=str(tmp_path), use_cpu=True, **values)
