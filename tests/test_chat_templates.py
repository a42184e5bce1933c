"""Arguments of a chat template, and templates without a system turn: in all prompts of a run, and in its folder."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.chat_templates import fit_template
from sgpo.cli import main
from sgpo.problems import Problem, save_problems
from sgpo.prompts import encode_prompts, guided_messages, student_messages
from sgpo.training.sft import WarmupConfig, build_warmup_trainer

# As Gemma's: it refuses a system turn.
REFUSING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
SILENT = REFUSING.replace("{{ raise_exception('System role not supported') }}", "{% set messages = messages[1:] %}")
# As Qwen3's: without enable_thinking the answer begins after empty thoughts.
THINKING = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' }}"
    "{% if message['role'] == 'assistant' and enable_thinking is defined and enable_thinking is false %}{{ '()' }}"
    "{% endif %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '()' }}{% endif %}{% endif %}"
)
OFF = {"enable_thinking": False}
PROBLEMS = [Problem(f"p{n}", f"{n}+1", str(n + 1), f"\\boxed{{{n + 1}}}", f"Steps: (a) add {n}") for n in range(8)]


@pytest.fixture
def with_template(tokenizer: Any) -> Callable[[str | None], Any]:
    def make(template: str | None) -> Any:
        made = copy.deepcopy(tokenizer)
        made.chat_template = template
        return made

    return make


@pytest.fixture
def student(checkpoint: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A model with this template, of which every fourth token ends a completion."""

    def make(template: str) -> Path:
        folder = tmp_path / "student"
        shutil.copytree(checkpoint, folder)
        (folder / "chat_template.jinja").write_text(template)
        generation = folder / "generation_config.json"
        values = json.loads(generation.read_text()) | {"eos_token_id": list(range(1, 400, 4))}
        generation.write_text(json.dumps(values))
        return folder

    return make


def rendered(tokenizer: Any, messages: Any, **arguments: Any) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments)


# --- templates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [REFUSING, SILENT])
def test_without_a_system_turn_its_text_begins_the_user_turn(with_template: Callable[..., Any], template: str) -> None:
    tokenizer = with_template(template)
    (said,) = fit_template(tokenizer, {}, "Think.")
    assert said == "The chat template has no system turn: the system prompt stands at the beginning of the user turn."
    assert rendered(tokenizer, student_messages("1+1", "Think.")) == "<user>Think.\n\n1+1<assistant>"
    assert rendered(tokenizer, guided_messages("1+1", "Add.", "Think.")) == (
        "<user>Think.\n\nStrategy for this kind of problem:\nAdd.\n\nProblem:\n1+1<assistant>"
    )
    answered = [*student_messages("1+1", "Think."), {"role": "assistant", "content": "2"}]
    assert rendered(tokenizer, answered) == "<user>Think.\n\n1+1<assistant>2<assistant>"
    assert rendered(tokenizer, student_messages("1+1", "")) == "<user>1+1<assistant>"
    before = tokenizer.chat_template
    assert fit_template(tokenizer, {}, "Think.") == []  # now it has one
    assert tokenizer.chat_template == before


def test_a_template_with_a_system_turn_and_a_run_without_one_change_nothing(
    with_template: Callable[..., Any],
) -> None:
    for template, system_prompt in ((THINKING, "Think."), (REFUSING, "")):
        tokenizer = with_template(template)
        assert fit_template(tokenizer, {}, system_prompt) == []
        assert tokenizer.chat_template == template


def test_arguments_are_defaults_of_the_template(with_template: Callable[..., Any]) -> None:
    tokenizer, messages = with_template(THINKING), student_messages("1+1", "Think.")
    assert rendered(tokenizer, messages) == "<system>Think.<user>1+1<assistant>"
    assert fit_template(tokenizer, OFF, "Think.") == ["Arguments of the chat template: enable_thinking false."]
    assert rendered(tokenizer, messages) == "<system>Think.<user>1+1<assistant>()"
    assert rendered(tokenizer, messages, enable_thinking=True) == "<system>Think.<user>1+1<assistant>"
    fit_template(tokenizer, OFF, "Think.")
    assert tokenizer.chat_template.count("set enable_thinking") == 1
    fit_template(tokenizer, {"enable_thinking": True}, "Think.")  # of a later run, which goes before
    assert rendered(tokenizer, messages) == "<system>Think.<user>1+1<assistant>"


@pytest.mark.parametrize(
    ("value", "text"), [("a 'b'\n\"é", "a 'b'\n\"é"), (None, "None"), (True, "True"), (2.5, "2.5")]
)
def test_values_reach_the_template_as_they_are(with_template: Callable[..., Any], value: Any, text: str) -> None:
    tokenizer = with_template("{{ level }}{% for message in messages %}{{ message.content }}{% endfor %}")
    fit_template(tokenizer, {"level": value}, None)
    assert rendered(tokenizer, student_messages("1+1", "")) == f"{text}1+1"


def test_what_the_template_does_not_read_is_refused(with_template: Callable[..., Any]) -> None:
    tokenizer = with_template(THINKING)
    with pytest.raises(
        ValueError,
        match=r"^chat_template_kwargs: the chat template does not read 'thinking'; it reads enable_thinking$",
    ):
        fit_template(tokenizer, {"thinking": False}, None)
    with pytest.raises(ValueError, match="does not read 'messages'"):
        fit_template(tokenizer, {"messages": "1"}, None)
    with pytest.raises(ValueError, match="enable_thinking is a list; write a text, a number, true, false or null"):
        fit_template(tokenizer, {"enable_thinking": []}, None)
    with pytest.raises(ValueError, match="'x'; it reads none"):
        fit_template(with_template(REFUSING), {"x": 1}, None)
    assert tokenizer.chat_template == THINKING


def test_a_template_that_cannot_be_used_is_refused_with_its_reason(with_template: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="does not render a user turn: only assistants"):
        fit_template(with_template("{{ raise_exception('only assistants') }}"), {}, "Think.")
    with pytest.raises(ValueError, match=r"cannot be read: .*endfor"):
        fit_template(with_template("{% for message in messages %}"), {}, None)
    assert fit_template(with_template(None), OFF, "Think.") == []  # refused elsewhere


# --- runs ---------------------------------------------------------------------------------------------------


def test_training_samples_both_groups_from_such_prompts(
    student: Callable[[str], Path], make_config: Callable[..., SGPOConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(chat_template_kwargs=OFF, max_completion_length=9, system_prompt="Think.")
    trainer = SGPOTrainer(str(student(THINKING)), config, PROBLEMS)
    assert "Arguments of the chat template: enable_thinking false.\n" in capsys.readouterr().out
    asked: list[str] = []
    sample = trainer.sampler.sample

    def recorded(requests: Any, *args: Any, **kwargs: Any) -> Any:
        asked.extend(trainer.processing_class.decode(request.prompt_ids) for request in requests)
        return sample(requests, *args, **kwargs)

    trainer.sampler.sample = recorded
    trainer.train()
    assert len(asked) == 8
    assert all(text.endswith("<assistant>()") for text in asked)
    assert sum("Strategy for this kind" in text for text in asked) == 4
    trainer.save_model()
    saved = AutoTokenizer.from_pretrained(config.output_dir)
    assert rendered(saved, student_messages("1+1", "Think.")) == "<system>Think.<user>1+1<assistant>()"


def test_the_warm_up_learns_after_such_prompts(student: Callable[[str], Path], tmp_path: Path) -> None:
    """What is learnt begins where sampling will."""
    args = WarmupConfig(
        output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none", chat_template_kwargs=OFF, max_length=300
    )
    trainer = build_warmup_trainer(str(student(THINKING)), args, PROBLEMS)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    tokenizer = trainer.processing_class
    prompt, learnt = (tokenizer.decode(ids[place]) for place in (labels == -100, labels != -100))
    assert prompt.endswith("<assistant>()")
    assert learnt.startswith("\\boxed{")


def test_an_evaluation_asks_a_model_without_a_system_turn(student: Callable[[str], Path], tmp_path: Path) -> None:
    save_problems(PROBLEMS, tmp_path / "problems.jsonl")
    given = ["eval", "--model", str(student(REFUSING)), "--problems", str(tmp_path / "problems.jsonl"), "--k", "1"]
    output = ["--max_completion_length", "9", "--output", str(tmp_path / "scores")]
    assert main([*given, *output]) == 0
    rows = Dataset.from_parquet(str(tmp_path / "scores" / "samples" / "problems.parquet")).to_list()
    assert len(rows) == 8
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    fit_template(tokenizer, {}, "Think.")
    (ids,) = encode_prompts(tokenizer, [student_messages("1+1", "Think.")])
    assert re.fullmatch(r"<user>Think\.\n\n1\+1<assistant>", tokenizer.decode(ids))


def test_a_server_is_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_problems(PROBLEMS, tmp_path / "problems.jsonl")
    given = ["eval", "--model", "name", "--problems", str(tmp_path / "problems.jsonl"), "--sampler", "http"]
    server = ["--base_url", "http://127.0.0.1:9/v1", "--output", str(tmp_path / "scores")]
    assert main([*given, *server, "--chat_template_kwargs", json.dumps(OFF)]) == 2
    assert 'extra_body \'{"chat_template_kwargs": {"enable_thinking": false}}\'' in capsys.readouterr().err
