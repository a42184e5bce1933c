"""`sampler: vllm` in one process with the trainer, for real: vLLM for CPU and the mini-world's base model.

    .venv-vllm/bin/python -m pytest -m vllm_engine

in the environment of constraints/vllm.txt. What must be patched on a CPU is in vllm_cpu.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import vllm_cpu
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.engine.batching import BatchLayout
from sgpo.engine.update import add_head_task, completion_scores
from sgpo.errors import EngineError, StopHere
from sgpo.miniworld.world import BASE_MODEL, Sizes, problem_sets
from sgpo.prompts import SYSTEM_PROMPT, encode_prompts, guided_messages, student_messages
from sgpo.sampling.records import Rollout, SampleRequest, SamplingConfig
from sgpo.sampling.transformers import TransformersSampler, nucleus, tempered_probs

pytestmark = pytest.mark.vllm_engine
PROBLEMS = problem_sets(3, Sizes.only(rl=16))["rl"]
LIMIT = 96


def base() -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    return AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32), tokenizer


@pytest.fixture(scope="module", autouse=True)
def _on_cpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        vllm_cpu.use_in_this_process(patch)
        vllm_cpu.keep_weights()
        yield


@pytest.fixture
def make_run(make_config: Callable[..., SGPOConfig]) -> Callable[..., SGPOTrainer]:
    """A trainer of the base model that samples with vLLM; even lengths are rewarded, so that groups differ."""

    def make(**changes: Any) -> SGPOTrainer:
        values = {
            "sampler": "vllm",
            "vllm_max_model_length": 256,
            "max_completion_length": LIMIT,
            "max_tokens_per_microbatch": 4096,
            "num_autonomous": 8,
            "num_guided": 4,
            "learning_rate": 1e-3,
            "max_steps": 6,
            "importance_cap": 2.0,
            **changes,
        }
        return SGPOTrainer(str(BASE_MODEL), make_config(**values), PROBLEMS, reward_funcs=even_length)

    return make


def even_length(completions: list[Any], **columns: Any) -> list[float]:
    return [float(len(str(completion)) % 2 == 0) for completion in completions]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """The sampler that the configuration gives, its model and its tokenizer."""
    from accelerate import Accelerator

    from sgpo.sampling.engines import make_sampler
    from sgpo.sampling.vllm_engines import LAUNCHER_NAMES

    before = {name: os.environ.get(name) for name in LAUNCHER_NAMES}
    model, tokenizer = base()
    add_head_task(model)
    folder = str(tmp_path_factory.mktemp("run"))
    args = SGPOConfig(folder, sampler="vllm", vllm_max_model_length=256, use_cpu=True, report_to="none")
    sampler = make_sampler(args, model, tokenizer, Accelerator(cpu=True))
    # Nothing tells children that they were started by a launcher.
    assert {name: os.environ.get(name) for name in LAUNCHER_NAMES} == before
    return sampler, model, tokenizer


@pytest.fixture(autouse=True)
def _same_weights(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does to the model of `parts`, the next one finds the base's weights."""
    if "parts" not in request.fixturenames:
        yield
        return
    model = request.getfixturevalue("parts")[1]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    yield
    model.load_state_dict(before)


def both_groups(tokenizer: Any) -> list[SampleRequest]:
    """8 unguided and 4 guided completions of each problem, as the trainer asks for them."""
    unguided = encode_prompts(tokenizer, [student_messages(p.prompt, SYSTEM_PROMPT) for p in PROBLEMS])
    guided = encode_prompts(tokenizer, [guided_messages(p.prompt, p.strategy or "", SYSTEM_PROMPT) for p in PROBLEMS])
    return [SampleRequest(ids, 8) for ids in unguided] + [SampleRequest(ids, 4) for ids in guided]


def mismatches(model: Any, tokenizer: Any, requests: list[SampleRequest], groups: list[list[Any]]) -> list[float]:
    """Difference of the sampler's and the training engine's log-probability, of each token."""
    pairs = [(r.prompt_ids, rollout) for r, group in zip(requests, groups, strict=True) for rollout in group]
    layout = BatchLayout(8192, tokenizer.pad_token_id, False)
    ours = completion_scores(model, [(ids, rollout.completion_ids) for ids, rollout in pairs], layout)
    return [
        abs(a - b)
        for (_, rollout), row in zip(pairs, ours, strict=True)
        for a, b in zip(rollout.sampler_logprobs.tolist(), row.logprobs.tolist(), strict=True)
    ]


def test_both_groups_in_one_call_with_the_trainers_logprobs(
    parts: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, model, tokenizer = parts
    calls: list[tuple[int, list[int]]] = []
    generate = sampler.engine.llm.generate

    def counted(prompts: Any, params: Any, **options: Any) -> Any:
        calls.append((len(prompts), [each.n for each in params]))
        return generate(prompts, params, **options)

    monkeypatch.setattr(sampler.engine.llm, "generate", counted)
    requests = both_groups(tokenizer)
    groups = sampler.sample(requests, SamplingConfig(LIMIT, 1.0, 0.95), seed=5)
    assert calls == [(1, [1]), (32, [8] * 16 + [4] * 16)]  # the fixed text after the synchronisation, and all requests
    assert [len(group) for group in groups] == [8] * 16 + [4] * 16
    found = mismatches(model, tokenizer, requests, groups)
    assert len(found) > 2000
    assert max(found) < 1e-4
    distinct = [len({tuple(rollout.completion_ids) for rollout in group}) for group in groups]
    assert sum(distinct) > 100  # of 192: the completions of a group have random numbers of their own
    print(f"{len(found)} tokens, mean {sum(found) / len(found):.2e}, max {max(found):.2e}, {sum(distinct)} distinct")


@pytest.mark.parametrize(("temperature", "top_p"), [(0.6, 0.5), (1.5, 1.0)])
def test_logprobs_are_of_the_full_vocabulary_whatever_was_drawn_from(
    parts: tuple[Any, Any, Any], temperature: float, top_p: float
) -> None:
    sampler, model, tokenizer = parts
    requests = both_groups(tokenizer)[::8]
    groups = sampler.sample(requests, SamplingConfig(24, temperature, top_p), seed=1)
    assert max(mismatches(model, tokenizer, requests, groups)) < 1e-4


def test_equal_seeds_give_equal_rollouts(parts: tuple[Any, Any, Any]) -> None:
    sampler, _, tokenizer = parts
    requests, sampling = both_groups(tokenizer)[:3], SamplingConfig(24, 1.0, 1.0)
    first, again, other = (sampler.sample(requests, sampling, seed=seed) for seed in (1, 1, 2))
    ids = [[[r.completion_ids for r in group] for group in groups] for groups in (first, again, other)]
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]


def test_more_tokens_of_prompts_than_a_step_of_the_engine_has(parts: tuple[Any, Any, Any]) -> None:
    """A prompt that was read in parts would wind a seeded generator back, which one of a CPU cannot do."""
    sampler, model, _ = parts
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(10, model.config.vocab_size, (48, 200), generator=draw).tolist()
    step = sampler.engine.llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
    assert sum(map(len, words)) > 2 * step
    requests = [SampleRequest(ids, 2) for ids in words]
    first, again = (sampler.sample(requests, SamplingConfig(4, 1.0, 1.0), seed=3) for _ in range(2))
    ids = [[[r.completion_ids for r in group] for group in groups] for groups in (first, again)]
    assert ids[0] == ids[1]
    assert {len(group) for group in first} == {2}


def test_end_tokens_and_truncation(parts: tuple[Any, Any, Any]) -> None:
    sampler, _, tokenizer = parts
    requests = both_groups(tokenizer)
    rollouts = [r for group in sampler.sample(requests, SamplingConfig(40, 1.0, 1.0), seed=0) for r in group]
    assert {r.truncated for r in rollouts} == {True, False}
    for rollout in rollouts:
        assert tokenizer.eos_token_id not in rollout.completion_ids[:-1]
        assert rollout.truncated == (rollout.completion_ids[-1] != tokenizer.eos_token_id)
        assert len(rollout.completion_ids) == 40 or not rollout.truncated
        assert len(rollout.sampler_logprobs) == len(rollout.completion_ids)


def test_only_our_end_tokens_end(parts: tuple[Any, Any, Any]) -> None:
    from sgpo.sampling.vllm import VLLMSampler

    sampler, _, tokenizer = parts
    requests = [SampleRequest(r.prompt_ids, 1) for r in both_groups(tokenizer)]
    (usual,) = {r[0].completion_ids[1] for r in sampler.sample(requests[:1], SamplingConfig(8, 0.0), seed=0)}
    other = VLLMSampler(sampler.engine, [usual])  # without a synchronisation: the engine has the weights
    ((rollout,),) = other.sample(requests[:1], SamplingConfig(8, 0.0), seed=0)
    assert (rollout.completion_ids[-1], rollout.truncated) == (usual, False)
    assert len(rollout.completion_ids) <= 2
    past = VLLMSampler(sampler.engine, [tokenizer.vocab_size - 1])
    rollouts = [group[0] for group in past.sample(requests, SamplingConfig(LIMIT, 0.0), seed=0)]
    assert any(tokenizer.eos_token_id in r.completion_ids[:-1] and len(r.completion_ids) == LIMIT for r in rollouts)


def test_greedy_is_that_of_transformers(parts: tuple[Any, Any, Any]) -> None:
    sampler, model, tokenizer = parts
    requests, sampling = both_groups(tokenizer), SamplingConfig(LIMIT, 0.0)
    ours = TransformersSampler.of(model, tokenizer).sample(requests, sampling, seed=0)
    theirs = sampler.sample(requests, sampling, seed=0)
    assert [[r.completion_ids for r in group] for group in theirs] == [
        [r.completion_ids for r in group] for group in ours
    ]


def test_top_p_and_temperature_draw_from_the_filtered_distribution(parts: tuple[Any, Any, Any]) -> None:
    sampler, model, tokenizer = parts
    draws, sampling = 4000, SamplingConfig(1, temperature=2.0, top_p=0.9)
    # Where the model is least sure of the next token.
    prompt = both_groups(tokenizer)[0].prompt_ids
    ((answer,),) = sampler.sample([SampleRequest(prompt, 1)], SamplingConfig(LIMIT, 0.0), seed=0)
    ids = torch.tensor([prompt + answer.completion_ids])
    entropy = torch.distributions.Categorical(logits=model(ids).logits[0] / sampling.temperature).entropy()
    ids = ids[0, : int(entropy[len(prompt) :].argmax()) + len(prompt) + 1].tolist()
    (group,) = sampler.sample([SampleRequest(ids, draws)], sampling, seed=0)
    counts = Counter(rollout.completion_ids[0] for rollout in group)
    logits = model(torch.tensor([ids])).logits[:, -1].detach().float()
    probs, token_ids = nucleus(tempered_probs(logits, sampling.temperature), sampling.top_p)
    assert token_ids is not None
    kept = {int(t): float(p) for t, p in zip(token_ids[0], probs[0] / probs[0].sum(), strict=True) if p > 0}
    assert len(kept) >= 4
    assert set(counts) <= set(kept)
    # Pearson's statistic; its mean is the number of degrees of freedom, its standard deviation sqrt(2 of it).
    merged = {t: p for t, p in kept.items() if p * draws >= 5}
    statistic = sum((counts[t] - draws * p) ** 2 / (draws * p) for t, p in merged.items())
    freedom = len(merged) - 1
    print(f"{len(kept)} tokens in the nucleus, statistic {statistic:.1f} for {freedom} degrees of freedom")
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def test_the_known_answer_comes_only_after_the_update(parts: tuple[Any, Any, Any]) -> None:
    from sgpo.sampling.vllm import VLLMSampler

    sampler, model, tokenizer = parts
    request = SampleRequest(both_groups(tokenizer)[0].prompt_ids, 1)
    answer = [*tokenizer("\\boxed{31415}", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    greedy = SamplingConfig(LIMIT, 0.0)

    def sampled() -> Rollout:
        return sampler.sample([request], greedy, seed=0)[0][0]

    before = sampled()
    assert before.completion_ids != answer
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs = torch.tensor([request.prompt_ids + answer])
    labels = torch.tensor([[-100] * len(request.prompt_ids) + answer])
    for _ in range(30):
        model(inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    # Without the weights of the update the old answer comes, and the check says so.
    assert VLLMSampler(sampler.engine, sampler.eos_token_ids).sample([request], greedy, seed=0)[0][0] == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler.engine, "load", lambda weights: None)
        with pytest.raises(EngineError, match="after the weight synchronisation vLLM ") as found:
            sampled()
    print(found.value)
    assert sampled().completion_ids == answer


def with_adapter(dtype: torch.dtype) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=dtype)
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))


def test_the_engine_samples_from_base_and_adapter(parts: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the merged model arrive, and the base stays what it was."""
    from sgpo.sampling.vllm import VLLMSampler

    sampler, _, tokenizer = parts
    model = with_adapter(torch.float32)
    add_head_task(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(sampler.synchronisation, "model", model)
    requests = both_groups(tokenizer)[:4]
    found = mismatches(model, tokenizer, requests, sampler.sample(requests, SamplingConfig(LIMIT), seed=0))
    assert max(found) < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with model.disable_adapter():
        with pytest.raises(EngineError, match="does not compute what the model does"):
            sampler.sample(requests, SamplingConfig(LIMIT), seed=0)
        with_adapter_still = VLLMSampler(sampler.engine, sampler.eos_token_ids)
        groups = with_adapter_still.sample(requests, SamplingConfig(LIMIT), seed=0)
        without = mismatches(model, tokenizer, requests, groups)
    assert max(without) > 0.1  # the engine keeps the adapter, the training engine is without it


def test_training_steps_sample_from_the_updated_weights(make_run: Callable[..., SGPOTrainer]) -> None:
    trainer = make_run()
    trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    seen = [line["sampler_mismatch"] for line in logs if "sampler_mismatch" in line]
    print("mismatch of each rollout batch", seen)
    assert len(seen) == 3
    assert max(seen) < 1e-5
    assert all(line["grad_norm"] > 0 for line in logs)


def test_training_steps_sample_from_the_updated_adapter(make_config: Callable[..., SGPOConfig]) -> None:
    peft = pytest.importorskip("peft")
    config = make_config(
        sampler="vllm",
        vllm_max_model_length=256,
        max_completion_length=LIMIT,
        max_tokens_per_microbatch=4096,
        learning_rate=1e-2,
        max_steps=4,
        importance_cap=2.0,
    )
    lora = peft.LoraConfig(r=4, target_modules="all-linear")
    trainer = SGPOTrainer(str(BASE_MODEL), config, PROBLEMS, reward_funcs=even_length, peft_config=lora)
    trainer.train()
    seen = [line["sampler_mismatch"] for line in trainer.state.log_history if "sampler_mismatch" in line]
    print("mismatch of each rollout batch", seen)
    assert len(seen) == 2
    assert max(seen) < 1e-5


def test_without_synchronisation_the_run_ends(
    make_run: Callable[..., SGPOTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a learning rate of the paper on: the weights that it changes so little are not seen in the completions."""
    trainer = make_run(learning_rate=1e-6)
    monkeypatch.setattr(trainer.sampler.engine, "load", lambda weights: None)
    with pytest.raises(EngineError, match="vLLM still has old weights: training changed the log-prob") as found:
        trainer.train()
    print(found.value)
    assert trainer.state.global_step == 2


def test_an_engine_that_dies_ends_the_run_with_its_error(
    make_run: Callable[..., SGPOTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_run()
    runner = trainer.sampler.engine.llm.llm_engine.model_executor.driver_worker.model_runner
    steps: list[int] = []
    execute = runner.execute_model

    def dies(*args: Any, **options: Any) -> Any:
        steps.append(trainer.state.global_step)
        if steps.count(2) == 5:  # while the second rollout batch is sampled
            raise MemoryError("no memory left on the device")
        return execute(*args, **options)

    monkeypatch.setattr(runner, "execute_model", dies)
    with pytest.raises(EngineError, match="vLLM failed while sampling: MemoryError: no memory left on the device") as e:
        trainer.train()
    assert isinstance(e.value.__cause__, MemoryError)
    assert trainer.state.global_step == 2


def test_an_engine_that_ctrl_c_stopped_can_be_asked_again(
    parts: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, _, tokenizer = parts
    requests, sampling = both_groups(tokenizer)[:4], SamplingConfig(24, 1.0, 1.0)
    expected = sampler.sample(requests, sampling, seed=3)
    runner = sampler.engine.llm.llm_engine.model_executor.driver_worker.model_runner
    steps: list[int] = []
    execute = runner.execute_model

    def stops(*args: Any, **options: Any) -> Any:
        steps.append(1)
        if len(steps) == 5:
            raise StopHere
        return execute(*args, **options)

    monkeypatch.setattr(runner, "execute_model", stops)
    with pytest.raises(StopHere):
        sampler.sample(requests, sampling, seed=3)
    assert [len(group) for group in sampler.sample(requests, sampling, seed=3)] == [8] * 4
    assert sampler.sample(requests, sampling, seed=3) == expected


def test_weights_that_do_not_fit_are_said_at_once(parts: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, _, tokenizer = parts
    other = {"model.layers.0.mlp.up_proj.weight": torch.zeros(3, 5)}
    monkeypatch.setattr(sampler.synchronisation, "weights", lambda: iter(other.items()))  # looked up at each call
    said = "^vLLM: the weight synchronisation failed: vLLM failed while loading the weight {}: {}: "
    with pytest.raises(EngineError, match=said.format("model.layers.0.mlp.up_proj.weight", "RuntimeError")) as found:
        sampler.sample(both_groups(tokenizer)[:1], SamplingConfig(4), seed=0)
    print(found.value)
    other = {"model.norm.weight": torch.zeros(3)}
    with pytest.raises(EngineError, match=said.format("model.norm.weight", "AssertionError")) as found:
        sampler.sample(both_groups(tokenizer)[:1], SamplingConfig(4), seed=0)
    other = {"model.layers.0.nothing": torch.zeros(3)}
    with pytest.raises(EngineError, match=said.format("model.layers.0.nothing", "(KeyError|ValueError)")) as found:
        sampler.sample(both_groups(tokenizer)[:1], SamplingConfig(4), seed=0)
    print(found.value)
    assert found.value.__cause__ is not None
    monkeypatch.undo()
    assert sampler.sample(both_groups(tokenizer)[:1], SamplingConfig(4), seed=0)


def test_a_synchronisation_that_hangs_is_ended_by_the_time_limit(
    parts: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    sampler, _, tokenizer = parts
    monkeypatch.setattr(sampler.synchronisation, "seconds", 0.3)
    monkeypatch.setattr(sampler.engine, "load", lambda weights: threading.Event().wait())
    with pytest.raises(EngineError, match=r"the weight synchronisation took more than 0\.3 seconds \(vllm_sync_timeo"):
        sampler.sample(both_groups(tokenizer)[:1], SamplingConfig(4), seed=0)


def test_a_bug_is_not_called_a_failure_of_vllm(parts: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:

    sampler, _, tokenizer = parts
    request = both_groups(tokenizer)[:1]

    def broken() -> Iterator[Any]:
        yield {}["weight"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler.synchronisation, "weights", broken)
        with pytest.raises(KeyError, match="weight") as caught:
            sampler.sample(request, SamplingConfig(4), seed=0)
    assert caught.traceback[-1].name == "broken"
    from sgpo.sampling import vllm_engines

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_engines, "extract_logprobs", broken)
        with pytest.raises(TypeError, match="broken"):
            sampler.sample(request, SamplingConfig(4), seed=0)
    assert len(sampler.sample(request, SamplingConfig(4), seed=0)[0]) == 8


def test_a_model_that_vllm_refuses_is_said_and_an_option_that_it_lacks_is_a_bug(tmp_path: Path) -> None:
    from sgpo.sampling.vllm_engines import CheckpointEngine, ColocatedEngine

    options = {"dtype": "float32", "gpu_memory_utilization": 0.3, "max_model_length": 64}
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "architectures": ["Nothing"]}')
    with pytest.raises(EngineError, match=r"^vLLM failed while starting the engine: ") as found:
        CheckpointEngine(str(tmp_path), **options)
    print(found.value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ColocatedEngine, "OPTIONS", {"no_such_option": 1})
        with pytest.raises(TypeError, match="no_such_option"):
            CheckpointEngine(str(BASE_MODEL), **options)


def test_what_exceeds_the_engines_context_is_refused(parts: tuple[Any, Any, Any]) -> None:
    sampler, _, tokenizer = parts
    with pytest.raises(ValueError, match=r"exceed vLLM's context of 256 tokens; raise vllm_max_model_length"):
        sampler.sample(both_groups(tokenizer)[:1], SamplingConfig(256), seed=0)
