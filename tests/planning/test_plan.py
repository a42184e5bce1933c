"""Plans of recipes: what fits where, what is said where it does not, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgpo.cli import main
from sgpo.planning.advice import fits, remedies
from sgpo.planning.devices import GPUS, Machine
from sgpo.planning.plan import peak_of, phases_of, plan_stage
from sgpo.planning.scenario import PlannedFor, parsed_changes, scenarios


def stages(recipe: str, gpus: int = 1, gpu: str = "h100", **given: Any) -> dict[str, PlannedFor]:
    return scenarios(recipe, Machine(GPUS[gpu], gpus, GPUS[gpu].memory), **given)


def test_the_stages_of_a_folder() -> None:
    found = stages("qwen2.5-7b", 8)
    assert list(found) == ["strategies", "sft", "sgpo", "eval"]
    assert {name: each.problems for name, each in found.items()} == {
        "strategies": 5667,
        "sft": 2833,
        "sgpo": 5667,
        "eval": None,
    }
    assert {each.shape.parameters for each in found.values()} == {7_615_616_512}
    assert {each.sharding for each in found.values()} == {"fsdp2"}
    assert list(stages("qwen2.5-7b", stages=["hpt", "luffy"])) == ["hpt", "luffy"]
    assert list(stages("llama-3.1-8b/grpo")) == ["grpo"]


@pytest.mark.parametrize("gpu", ["rtx4090", "l4"])
def test_the_recipe_for_24_gb_fits(gpu: str) -> None:
    found = stages("qwen2.5-0.5b-lora", gpu=gpu, stages=["sft", "sgpo", "grpo", "luffy", "hpt"])
    assert {name: remedies(each) for name, each in found.items()} == {name: [] for name in found}
    assert all(each.how.rank == 32 and len(each.how.targets) == 7 for each in found.values())  # RL goes on with it


def test_the_smallest_of_the_papers_models_fits_one_gpu_and_the_others_eight() -> None:
    assert all(fits(each) for each in stages("qwen2.5-1.5b", stages=["sft", "sgpo"]).values())
    for recipe in ("qwen2.5-7b", "llama-3.1-8b"):
        assert not any(fits(each) for each in stages(recipe, stages=["sft", "sgpo"]).values())
        smaller = {"sampler_batch_tokens": 65_536}
        assert all(fits(each) for each in stages(recipe, 8, stages=["sft", "sgpo"], changes=smaller).values())
    assert not fits(stages("qwen2.5-7b/sgpo", 8, sharding="none")["sgpo"])


def test_each_rank_has_its_part() -> None:
    one, eight = (phases_of(stages("qwen2.5-7b/sgpo", gpus)["sgpo"])["update"] for gpus in (1, 8))
    for name in ("weights", "gradients", "Adam's moments"):
        assert eight[name] == one[name] / 8
    outer, layer = 2 * 152_064 * 3584 + 3584, 233_057_792
    assert eight["gathered layers"] == 4 * (outer + 2 * layer) + 4 * (outer + layer)
    sampling = phases_of(stages("qwen2.5-7b/sgpo", 8)["sgpo"])["sampling"]
    assert sampling["gathered weights"] == 4 * 7_615_616_512
    replicated = phases_of(stages("qwen2.5-7b/sgpo", 8, sharding="none")["sgpo"])["update"]
    assert replicated["weights"] == replicated["buckets of gradients"] == one["weights"]


def test_what_is_said_where_it_does_not_fit() -> None:
    given = stages("qwen2.5-7b/sgpo")["sgpo"]
    texts = remedies(given)
    (gpus,) = [text for text in texts if "GPUs with fsdp: full_shard" in text]
    count = int(gpus.split()[0])
    assert fits(stages("qwen2.5-7b/sgpo", count)["sgpo"])
    assert count == 2 or not fits(stages("qwen2.5-7b/sgpo", count - 1)["sgpo"])
    assert "use_peft: true with lora_r: 32 and lora_target_modules: [all-linear]" in texts
    without = stages("qwen2.5-1.5b/sgpo", changes={"activation_checkpointing": False})["sgpo"]
    assert remedies(without)[0] == "activation_checkpointing: true"
    small = stages("qwen2.5-1.5b/sft", changes={"per_device_train_batch_size": 64})["sft"]
    assert remedies(small)[0] == "per_device_train_batch_size: 1 with gradient_accumulation_steps: 4096"


def test_changes_that_do_not_suffice_alone_are_named_together() -> None:
    changes = {"activation_checkpointing": False, "sampler_batch_tokens": 4_000_000}
    given = stages("qwen2.5-1.5b/sgpo", changes=changes)["sgpo"]
    assert "activation_checkpointing: true" in remedies(given)[0].split(" and ")
    tokens = int(remedies(given)[0].partition("sampler_batch_tokens: ")[2].split()[0])
    assert fits(given.changed(activation_checkpointing=True, sampler_batch_tokens=tokens))
    assert not fits(given.changed(activation_checkpointing=True, sampler_batch_tokens=2 * tokens))
    assert not fits(given.changed(sampler_batch_tokens=tokens))


def test_what_compares_with_the_model_before_training_keeps_a_copy(tmp_path: Path) -> None:
    changes = {"use_peft": True, "lora_r": 2, "lora_target_modules": ["q_proj"]}
    frozen, adapter = 494_032_768, 24 * 2 * (896 + 896)
    for given, size in [({}, 4 * frozen), (changes, 4 * adapter)]:
        sft = stages("miniworld/sft", model="Qwen/Qwen2.5-0.5B-Instruct", changes=given)["sft"]
        before, after = (phases_of(each)["update"] for each in (sft, sft.changed(loss="iw")))
        assert after == {**before, "copy of the policy": size}
        assert phases_of(sft.changed(loss="psft"))["update"] == before
    file = tmp_path / "own.py"
    file.write_text(
        "from dataclasses import make_dataclass\nfrom sgpo.methods.grpo import GRPOOptions, decide\n"
        "from sgpo.methods.method import Method, Work, all_autonomous\n"
        "def work(options): return Work(6, 5, 4, 3)\n"
        "METHOD = Method(GRPOOptions, all_autonomous, decide, uses=('reference',), work=work)\n"
        "Own = make_dataclass('Own', ['rate'], bases=(GRPOOptions,), kw_only=True)\n"
        "OTHER = Method(Own, all_autonomous, decide)\n"
    )
    own = stages("qwen2.5-7b/grpo", changes={"method": f"{file}:METHOD"})["grpo"]
    assert {parts["copy of the policy"] for parts in phases_of(own).values()} == {4 * 7_615_616_512}
    with pytest.raises(ValueError, match="OTHER cannot be planned: its option rate has no default"):
        stages("qwen2.5-7b/grpo", changes={"method": f"{file}:OTHER"})
    tokens, visits = plan_stage(own, gpu_price=1.0).tokens, 440 * 128
    assert tokens == {"sampled": visits * 6 * 2048, "learnt": visits * 5 * 2248, "forward alone": visits * 5 * 2248}


@pytest.mark.parametrize("method", ["opsd", "sdpo"])
def test_what_is_learnt_from_a_teacher_has_the_logits_of_both(method: str) -> None:
    grpo = stages("gsm8k/grpo")["grpo"]
    alone, taught = phases_of(grpo), phases_of(grpo.changed(method=method))
    assert set(taught) == {"distillation", "sampling"}
    # Two rows of 512 tokens: a second buffer of 128 MiB, and the teacher's hidden states of 896 numbers in float32.
    more = 128 * 1024**2 + 2 * 512 * 896 * 4
    copied = {"copy of the policy": alone["update"]["weights"]}
    assert taught["distillation"] == {**alone["update"], "projection": alone["update"]["projection"] + more, **copied}
    assert taught["sampling"] == {**alone["sampling"], **copied}
    present = phases_of(grpo.changed(**{"method": method, f"{method}_teacher_update_rate": 1.0}))
    assert present["sampling"] == alone["sampling"]


@pytest.mark.parametrize(("method", "count"), [("grpo", 12), ("hpt", 12), ("luffy", 11), ("srft", 11)])
def test_the_experts_response_is_not_sampled(method: str, count: int) -> None:
    given = stages("gsm8k/grpo", changes={"method": method, "problems_per_rollout": 2})["grpo"]
    sampling = phases_of(given)["sampling"]
    assert sampling["logits"] == 3 * 4 * 2 * count * 151_936
    # Rows of 1,024 + 512 tokens, a token 24 layers of 128 keys in float32 and 128 values in bfloat16.
    assert sampling["keys and values"] == 2 * count * 1536 * 24 * 128 * 6


def test_vllm_takes_its_share() -> None:
    changes = {"sampler": "vllm", "vllm_gpu_memory_utilization": 0.7}
    given = stages("qwen2.5-1.5b/sgpo", changes=changes)["sgpo"]
    assert set(phases_of(given)) == {"update", "distillation"}
    assert phases_of(given)["update"]["vLLM's share"] == 0.7 * 80e9
    assert any(text.startswith("vllm_gpu_memory_utilization: 0.") for text in remedies(given))
    alone = phases_of(stages("qwen2.5-1.5b/sgpo")["sgpo"])
    assert peak_of(phases_of(given)) - peak_of(alone) == pytest.approx(56e9, rel=0.02)


def test_vllm_that_sleeps_leaves_its_share_to_the_updates() -> None:
    changes = {"sampler": "vllm", "vllm_gpu_memory_utilization": 0.7, "vllm_enable_sleep_mode": True}
    phases = phases_of(stages("qwen2.5-1.5b/sgpo", changes=changes)["sgpo"])
    alone = phases_of(stages("qwen2.5-1.5b/sgpo")["sgpo"])
    assert phases["update"] == alone["update"]
    assert phases["vLLM awake"] == {
        "weights": alone["update"]["weights"],
        "Adam's moments": alone["update"]["Adam's moments"],
        "vLLM's share": 0.7 * 80e9,
    }


def test_hours_and_cost() -> None:
    found = stages("qwen2.5-7b", 32)
    plans = {name: plan_stage(each, gpu_price=2.0, prices=(0.28, 0.42)) for name, each in found.items()}
    sgpo = plans["sgpo"]
    assert sgpo.tokens["sampled"] == 440 * 128 * 12 * 2048
    assert sgpo.cost == pytest.approx(sgpo.total_hours * 32 * 2.0)
    assert sgpo.notes[0] == "880 updates in 440 rollout batches"
    assert plans["strategies"].requests == 2 * 5667
    assert plans["eval"].tokens["sampled"] == (500 * 4 + 40 * 32 + 674 * 4 + 30 * 32) * 2048
    # A rollout batch on 32 GPUs with vLLM waits for its longest completion: 16,384 readings of 15.2 GB at 1.675 TB/s.
    engine = plan_stage(stages("qwen2.5-7b/sgpo", 32, changes={"sampler": "vllm"})["sgpo"], gpu_price=2.0)
    assert engine.hours["sampling"] == pytest.approx(440 * 16_384 * 15.231233024 / 1675 / 3600, rel=1e-6)
    assert "more GPUs do not shorten the sampling" in engine.notes[-1]


@pytest.mark.parametrize(
    ("changes", "passes"),
    [({}, 4), ({"activation_checkpointing": False}, 3), ({"use_peft": True, "lora_r": 2}, 3)],
)
def test_a_warm_up_that_compares_goes_forward_once_more(changes: dict[str, Any], passes: int) -> None:
    sft = stages("qwen2.5-7b/sft", changes=changes)["sft"]
    plans = {loss: plan_stage(sft.changed(loss=loss), gpu_price=1.0) for loss in ("nll", "dft", "iw", "psft")}
    operations = 2 * (7_615_616_512 - 152_064 * 3584 - 3584) + 4 * 28 * 3584 * 4200 / 2  # of a token, forward
    tokens = 2833 * 0.9 * 10 * 4200
    hours = tokens * operations / (989e12 * 0.35) / 3600
    for loss, more in {"nll": 0, "dft": 0, "iw": 1, "psft": 1}.items():
        assert plans[loss].hours == {"training": pytest.approx((passes + more) * hours, rel=1e-12)}
        assert plans[loss].tokens == pytest.approx({"learnt": tokens} | ({"forward alone": tokens} if more else {}))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--recipe", "qwen2.5-7b", "--stages", "sft", "sgpo", "--json"]) == 0
    sft, sgpo = json.loads(capsys.readouterr().out)
    assert (sft["stage"], sgpo["stage"], sft["fits"], sgpo["fits"]) == ("sft", "sgpo", False, False)
    assert sgpo["peak_bytes"] == max(sum(parts.values()) for parts in sgpo["memory_bytes"].values())
    changed = ["--change", "sampler_batch_tokens=131072", "max_completion_length=8192"]
    assert main(["plan", "--recipe", "qwen2.5-7b", "--gpus", "8", "--memory", "80", *changed]) == 0
    shown = capsys.readouterr().out
    assert "DOES NOT FIT" not in shown
    assert "memory of each of 8 ranks, update: " in shown
    assert "requests to the strong model: 11,334\n" in shown
    assert all(len(line) <= 120 for line in shown.splitlines())
    assert main(["plan", "--recipe", "qwen2.5-7b/sgpo", "--gpu", "l4"]) == 0
    assert "DOES NOT FIT. One of these makes it fit:\n    - " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--recipe", "qwen2.5-8b"], "no recipe of that name"),
        (["--recipe", "qwen2.5-7b", "--gpu", "h10"], "there is no GPU h10 (did you mean h100?); choose one of h100"),
        (["--recipe", "qwen2.5-7b", "--gpus", "0"], "--gpus is 0; it must be at least 1"),
        (["--recipe", "qwen2.5-7b", "--sharding", "zero"], "choose one of none, fsdp2"),
        (["--recipe", "qwen2.5-7b", "--change", "lora_q=1"], "no stage of qwen2.5-7b has lora_q"),
        (["--recipe", "qwen2.5-7b", "--change", "lora_r"], "--change takes KEY=VALUE, not lora_r"),
        (["--recipe", "qwen2.5-7b", "--stages", "sftt"], "has no stage sftt; it has "),
        (["--recipe", "qwen2.5-7b/grpo", "--change", "method=grop"], "method is 'grop'; choose one of "),
        (["--recipe", "qwen2.5-7b/sft", "--change", "loss=dtf"], "loss is 'dtf'; choose one of nll, dft, iw, psft"),
        (["--recipe", "own/cpu"], "the shape of HuggingFaceTB/SmolLM2-135M-Instruct is not known; give --model with"),
        (
            ["--recipe", "gsm8k", "--stages", "grpo", "--change", "max_steps=-1"],
            "grpo: the number of problems is not known",
        ),
    ],
)
def test_refusals(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *given]) == 2
    assert message in capsys.readouterr().err


def test_changes_are_values_of_yaml() -> None:
    assert parsed_changes(["a=1", "b=true", "c=[x, y]", "d=1.0e-5"]) == {"a": 1, "b": True, "c": ["x", "y"], "d": 1e-5}


def test_recipes_of_the_user(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "sft.yaml").write_text(
        "model: Qwen/Qwen2.5-0.5B-Instruct\nproblems: a.jsonl\noutput_dir: runs/a\n"
        "use_peft: true\nlora_r: 8\nlora_target_modules: all-linear\n"
    )
    (folder / "grpo.yaml").write_text(
        "model: runs/a\nproblems: b.jsonl\noutput_dir: runs/b\nmethod: grpo\nmax_steps: 8\n"
    )
    (folder / "eval.yaml").write_text("model: runs/b\nbenchmarks: math500,aime24\n")
    found = stages(str(folder), problems={"sft": 100}, stages=["sft", "grpo", "eval"])
    assert [found[name].how.trained for name in ("sft", "grpo")] == [4_399_104, 4_399_104]
    assert plan_stage(found["grpo"], gpu_price=1.0).notes[0] == "8 updates in 4 rollout batches"
    assert plan_stage(found["eval"], gpu_price=1.0).tokens == {"sampled": (500 * 4 + 30 * 32) * 2048}
    assert list(stages(str(folder), problems={"sft": 100})) == ["sft", "eval"]
    (folder / "eval.yaml").write_text("modle: runs/b\n")
    with pytest.raises(ValueError, match=r"unknown in .*eval.yaml: modle \(did you mean model\?\)"):
        stages(str(folder))


def test_strategies_that_come_with_the_problems_cost_nothing() -> None:
    assert list(stages("gsm8k")) == ["sft", "sgpo", "eval"]
    own = stages("own/one-gpu", gpu="l4")["one-gpu"]
    assert fits(own)
    assert own.shape.parameters == 494_032_768


def test_the_warm_up_on_several_gpus_says_how_its_batch_stays() -> None:
    notes = plan_stage(stages("qwen2.5-7b/sft", 8)["sft"], gpu_price=2.0).notes
    assert notes == ("512 responses an update", "as many as on one GPU with gradient_accumulation_steps: 8")
