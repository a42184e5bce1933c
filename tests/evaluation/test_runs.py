"""`sgpo eval` from its command line: what it writes, that it goes on where it was, and that numbers repeat."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.cli import main
from sgpo.evaluation.arguments import EvalArguments
from sgpo.evaluation.compare import compare_evaluations
from sgpo.evaluation.engines import EvaluationRequest, LocalEngine
from sgpo.evaluation.evaluate import evaluate, problem_seed
from sgpo.evaluation.models import Model
from sgpo.miniworld.world import BASE_MODEL, Sizes, problem_sets
from sgpo.problems import save_problems
from sgpo.problems.inspection import fingerprint
from sgpo.prompts import SYSTEM_PROMPT
from sgpo.sampling.records import SampleRequest, SamplingConfig
from sgpo.sampling.transformers import TransformersSampler
from sgpo.screen import Meter

PROBLEMS = problem_sets(0, Sizes.only(dev=6))["dev"]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only stand in each other's way where a model is this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The samples of an evaluation in one go, with the options of all of them."""
    folder = tmp_path_factory.mktemp("whole")
    save_problems(PROBLEMS, folder / "dev.jsonl")
    assert main(command(BASE_MODEL, folder / "dev.jsonl", folder / "output")) == 0
    return rows_of(folder / "output")


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    save_problems(PROBLEMS, tmp_path / "dev.jsonl")
    return tmp_path / "dev.jsonl"


@pytest.fixture
def run(dev: Path, tmp_path: Path) -> Callable[..., Path]:
    """Evaluate the shipped model; returns the output folder."""

    def evaluate(name: str, *options: str, model: Path = BASE_MODEL, status: int = 0) -> Path:
        assert main(command(model, dev, tmp_path / name, *options)) == status
        return tmp_path / name

    return evaluate


def command(model: Path | str, problems: Path, output: Path, *options: str) -> list[str]:
    start = ["eval", "--model", str(model), "--problems", str(problems), "--output", str(output)]
    return [*start, "--max_completion_length", "60", "--k", "2", *options]


def rows_of(output: Path, name: str = "dev") -> Rows:
    return pq.read_table(output / "samples" / f"{name}.parquet").to_pylist()


def summary_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "summary.json").read_text())


# --- what is written ------------------------------------------------------------------------------------------


def test_samples_and_summary(run: Callable[..., Path], dev: Path) -> None:
    output = run("scores", "--greedy", "--group_by", "family", "--seed", "3")
    summary, rows = summary_of(output), rows_of(output)
    assert summary["engine"] == {
        "name": "transformers",
        "model": str(BASE_MODEL),
        "revision": summary["engine"]["revision"],
        "chat_template": summary["engine"]["chat_template"],
        "dtype": "float32",
        "device": summary["engine"]["device"],
    }
    assert summary["engine"]["revision"].startswith("sha256:")
    assert summary["sampling"] == {"temperature": 0.6, "top_p": 0.95, "seed": 3}
    assert summary["prompt"]["guided"] is False
    assert "\\boxed{}" in summary["prompt"]["system"]
    assert set(summary["versions"]) >= {"python", "sgpo", "torch", "transformers", "math-verify"}
    numbers = summary["benchmarks"]["dev"]
    assert (numbers["problems"], numbers["k"], numbers["source"]) == (6, 2, str(dev))
    assert numbers["average"] == sum(row["reward"] for row in rows) / 12
    assert numbers["pass_at"]["1"] == numbers["average"]
    solved = [any(row["reward"] for row in rows[i : i + 2]) for i in range(0, 12, 2)]
    assert 0 < sum(solved) < 6
    assert numbers["pass_at"]["2"] == sum(solved) / 6
    assert numbers["greedy"]["average"] == sum(row["reward"] for row in rows_of(output, "dev.greedy")) / 6
    assert numbers["length"] == sum(row["length"] for row in rows) / 12
    for row in rows:
        assert row["correct"] == (row["verdict"] == "correct" and not row["truncated"])
        assert row["reward"] == float(row["correct"])
        assert row["verdict"] != "correct" or f"\\boxed{{{row['extracted']}}}" in row["completion"]
    assert [(row["id"], row["sample"]) for row in rows] == [(p.id, i) for p in PROBLEMS for i in range(2)]


def test_weights_are_read_once_for_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at all for what is refused; and again once they have changed, whatever their size and time say."""
    shutil.copytree(BASE_MODEL, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    opened: list[str] = []
    opens = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *how, **more: opened.append(path.name) or opens(path, *how, **more))

    def revision() -> str | None:
        return Model(EvalArguments(model=str(tmp_path / "model"))).revision

    Model(EvalArguments(model=str(tmp_path / "model")))
    assert opened.count(weights.name) == 0
    before, content = weights.stat(), weights.read_bytes()
    expected = sha256(b"model.safetensors" + content).hexdigest()[:16]
    opened.clear()
    assert [revision(), revision()] == [f"sha256:{expected}"] * 2
    assert opened.count(weights.name) == 1
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert revision() != f"sha256:{expected}"


def test_guided_evaluation_tells_how_good_strategies_are(run: Callable[..., Path]) -> None:
    plain, guided = (summary_of(run(name, *options)) for name, options in (("a", []), ("b", ["--guided"])))
    assert guided["prompt"]["guided"] is True
    assert guided["benchmarks"]["dev"]["average"] > plain["benchmarks"]["dev"]["average"] + 0.2


def test_a_guided_evaluation_takes_the_problems_with_a_strategy(
    run: Callable[..., Path], dev: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their answers are those of an evaluation of them alone, and are compared with the unguided ones to them."""
    bare = [replace(problem, strategy=None) if i in (1, 4) else problem for i, problem in enumerate(PROBLEMS)]
    save_problems(bare, dev)
    capsys.readouterr()
    output = run("guided", "--guided", "--greedy")
    out = capsys.readouterr().out
    said = "dev: guided evaluation of the 4 of 6 problems that have a strategy"
    assert out.count(said) == 2  # before and after
    taken = [PROBLEMS[i] for i in (0, 2, 3, 5)]
    rows = rows_of(output)
    assert [row["id"] for row in rows] == [problem.id for problem in taken for _ in range(2)]
    numbers = summary_of(output)["benchmarks"]["dev"]
    assert (numbers["problems"], numbers["fingerprint"]) == (4, fingerprint(taken))
    assert numbers["of"] == {"source": str(dev), "problems": 6, "fingerprint": fingerprint(bare)}
    assert numbers["average"] == sum(row["reward"] for row in rows) / 8
    plain = run("plain")
    assert "of" not in summary_of(plain)["benchmarks"]["dev"]
    assert main(["eval", "compare", str(plain), str(output)]) == 0
    assert "dev: compared on 4 problems, those that both have; A has 6, B has 4." in capsys.readouterr().out
    (found,) = compare_evaluations(plain, output).sets
    before = [row["correct"] for row in rows_of(plain) if row["id"] in {problem.id for problem in taken}]
    assert found.averages == (sum(before) / 8, numbers["average"])
    save_problems(taken, dev)
    assert rows_of(run("alone", "--guided")) == rows


def test_many_truncated_answers_are_a_warning(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run("short", "--max_completion_length", "5")
    said = "WARNING: 100% of the answers on dev were cut off at 5 tokens and count as wrong"
    assert said in capsys.readouterr().out
    run("long", "--max_completion_length", "100")
    assert "WARNING" not in capsys.readouterr().out


def test_the_length_is_capped_at_the_context(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    numbers = summary_of(run("scores", "--max_completion_length", "5000", "--limit", "1", "--k", "1"))
    (limit,) = (each["max_completion_length"] for each in numbers["benchmarks"].values())
    assert 350 < limit < 512
    assert f"max_completion_length is {limit}, not 5000: the model has 512 positions" in capsys.readouterr().out


# --- the same numbers again -----------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", ["190", "700"])
def test_the_batch_does_not_matter(run: Callable[..., Path], whole: Rows, at_once: str) -> None:
    """One problem, a few, or many at a time; other problems beside them, or none."""
    assert rows_of(run("parts", "--sampler_batch_tokens", at_once)) == whole
    assert rows_of(run("some", "--limit", "3", "--sampler_batch_tokens", at_once)) == whole[:6]


def test_more_samples_begin_with_the_same_ones(run: Callable[..., Path], whole: Rows) -> None:
    three = rows_of(run("three", "--k", "3"))
    assert [row for row in three if row["sample"] < 2] == whole
    assert {row["completion"] for row in three} > {row["completion"] for row in whole}


def test_another_seed_gives_other_samples(run: Callable[..., Path], whole: Rows) -> None:
    other = rows_of(run("other", "--seed", "1"))
    assert [row["completion"] for row in other] != [row["completion"] for row in whole]


def test_seeds_follow_from_seed_and_text() -> None:
    seeds = [problem_seed(0, problem) for problem in PROBLEMS]
    assert len(set(seeds)) == len({p.prompt for p in PROBLEMS})
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert problem_seed(1, PROBLEMS[0]) != seeds[0]


def test_a_request_with_a_seed_depends_on_nothing_else(checkpoint: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    sampler = TransformersSampler.of(model, tokenizer)
    alone = sampler.sample([SampleRequest([5, 6, 7], 2, seed=11)], SamplingConfig(8), seed=0)[0]
    beside = [SampleRequest([9, 8], 3), SampleRequest([5, 6, 7], 4, seed=11)]
    longer = sampler.sample(beside, SamplingConfig(16), seed=1)[1]
    assert [r.completion_ids[:8] for r in longer[:2]] == [r.completion_ids for r in alone]
    assert longer[2].completion_ids != longer[0].completion_ids


def test_validation_during_training_gives_the_same_numbers(whole: Rows) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(BASE_MODEL), AutoTokenizer.from_pretrained(BASE_MODEL)
    found = evaluate(TransformersSampler.of(model, tokenizer), tokenizer, PROBLEMS, SamplingConfig(60, 0.6, 0.95), k=2)
    assert [sample.completion for sample in found.samples] == [row["completion"] for row in whole]
    assert found.average == sum(row["reward"] for row in whole) / len(whole) > 0


# --- how far it is ---------------------------------------------------------------------------------------------


def test_completions_are_counted_while_they_are_sampled(whole: Rows, tmp_path: Path) -> None:
    """All 12 are sampled in one call: what is seen before its end comes from within."""
    model = AutoModelForCausalLM.from_pretrained(BASE_MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(BASE_MODEL)
    engine = LocalEngine(TransformersSampler.of(model, tokenizer), tokenizer, {"model": "base"}, "", 10**6)
    seen: list[tuple[int, int]] = []
    meter = Meter(12, "completions", lambda meter: seen.append((meter.done, meter.tokens)))
    asked = EvaluationRequest(SamplingConfig(60, 0.6, 0.95), k=2, seed=0, system_prompt=SYSTEM_PROMPT)
    engine.answer(PROBLEMS, asked, tmp_path / "journal", meter)
    assert seen == sorted(seen)
    assert len({done for done, _ in seen if 0 < done < 12}) > 3
    assert seen[-1] == (12, sum(row["length"] for row in whole))
    again = Meter(12, "completions")
    engine.answer(PROBLEMS, asked, tmp_path / "journal", again)
    assert (again.done, again.fresh, again.tokens) == (12, 0, 0)


def test_without_a_terminal_the_end_is_a_line(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    output = run("scores")
    assert re.search(r"^dev: 12 completions in \d+ s$", capsys.readouterr().err, re.MULTILINE)
    (output / "summary.json").unlink()
    journal = output / "answers.journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:5]))  # two problems, and half of one
    run("scores")
    assert re.search(r"^dev: 12 completions in \d+ s, 4 of them known before$", capsys.readouterr().err, re.MULTILINE)


# --- going on -------------------------------------------------------------------------------------------------


def test_a_killed_evaluation_goes_on_where_it_was(
    run: Callable[..., Path], whole: Rows, dev: Path, tmp_path: Path
) -> None:
    one_at_a_time = ["--sampler_batch_tokens", "190"]
    output = tmp_path / "killed"
    journal = output / "answers.journal.jsonl"
    arguments = command(BASE_MODEL, dev, output, *one_at_a_time)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([sys.executable, "-m", "sgpo", *arguments], env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    answered = journal.read_bytes()
    assert 4 <= answered.count(b"\n") < 12
    assert not (output / "summary.json").exists()

    run("killed", *one_at_a_time)
    lines = journal.read_bytes().splitlines()
    kept = answered[: answered.rindex(b"\n")]
    assert b"\n".join(lines).startswith(kept)  # what was answered was not asked again
    assert len(lines) == len({json.loads(line)["key"] for line in lines}) == 12
    assert rows_of(output) == whole


def test_other_settings_do_not_go_on(
    run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = run("scores")
    (output / "summary.json").unlink()
    journal = (output / "answers.journal.jsonl").read_bytes()
    run("scores", "--temperature", "1.0", "--k", "3", status=2)
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"sgpo eval: output {output} holds an unfinished evaluation with other settings (benchmarks.dev.k was 2, is 3; "
        "sampling.temperature was 0.6, is 1.0); go on with those, write another output, or overwrite: true to begin "
        "anew"
    )
    assert (output / "answers.journal.jsonl").read_bytes() == journal
    run("scores", "--temperature", "1.0", "--k", "3", "--overwrite")
    assert len(rows_of(output)) == 18
    assert len((output / "answers.journal.jsonl").read_bytes().splitlines()) == 18
    run("scores", status=2)
    assert "holds another evaluation (summary.json)" in capsys.readouterr().err


def test_other_weights_under_the_same_path_do_not_go_on(
    run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(BASE_MODEL, model)
    output = run("scores", model=model)
    (output / "summary.json").unlink()
    weights = load_file(model / "model.safetensors")
    next(iter(weights.values())).add_(0.01)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    run("scores", model=model, status=2)
    assert "with other settings (engine.revision was 'sha256:" in capsys.readouterr().err
