"""What TRL's and veRL's names are answered with: what the same thing is called here."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import ROOT

from sgpo.cli import main
from sgpo.configuration.other_names import OTHER_NAMES, Here, other_name
from sgpo.configuration.source_fields import init_fields
from sgpo.options.groups import EVAL, SFT, TRAIN, Options, check_beforehand

DOCS = ROOT / "docs" / "configuration.md"
REQUIRED = ["--model", "organisation/model", "--problems", "organisation/data"]


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("beta", "the loss has no KL to a reference policy; leave it out"),
        ("num_generations", "here num_autonomous and num_guided: the sizes of the two groups"),
        (
            "max_prompt_length",
            "here bad_rows: prompts are not cut; too long ones are refused, or left out by drop",
        ),
        ("epsilon", "here eps_low"),
        ("epsilon_high", "here eps_high"),
        (
            "num_iterations",
            "here updates_per_rollout: a rollout batch is cut into that many updates, each completion in one",
        ),
        ("loss_type", "here method: it also decides how tokens are weighed"),
        ("vllm_server_host", "here vllm_server_base_url: http://HOST:PORT"),
        ("use_vllm", "here sampler: write sampler: vllm"),
    ],
)
def test_names_of_trl(key: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *REQUIRED, f"--{key}", "1"]) == 2
    start, end = "sgpo train: unknown in", "; sgpo train --help all lists what is known\n"
    assert capsys.readouterr().err == f"{start} the command line: --{key} ({answer}){end}"
    assert main(["train", *REQUIRED, f"--{key.replace('_', '-')}=1"]) == 2
    assert capsys.readouterr().err == f"{start} the command line: --{key.replace('_', '-')} ({answer}){end}"
    configuration = tmp_path / "my.yaml"
    configuration.write_text(f"{key}: 1\n")
    assert main(["train", *REQUIRED, "--config", str(configuration)]) == 2
    assert capsys.readouterr().err == f"{start} {configuration}: {key} ({answer}){end}"


def test_names_of_verl(tmp_path: Path) -> None:
    configuration = tmp_path / "verl.yaml"
    configuration.write_text("actor_rollout_ref: {actor: {clip_ratio_low: 0.2}}\ndata.train_batch_size: 128\n")
    with pytest.raises(ValueError, match=r"unknown in .*verl\.yaml: ") as caught:
        check_beforehand(TRAIN, [*REQUIRED, "--config", str(configuration)])
    assert "actor_rollout_ref (a section of veRL's; keys are not nested here)" in str(caught.value)
    assert "data.train_batch_size (here problems_per_rollout)" in str(caught.value)


@pytest.mark.parametrize("options", [SFT, EVAL], ids=["sft", "eval"])
def test_only_keys_of_the_command_are_named(options: Options) -> None:
    """Of sgpo sft and eval, num_autonomous is no key; the nearest one is named, or none."""
    for key in ("num_generations", "clip_ratio"):
        with pytest.raises(ValueError, match=f"unknown in the command line: --{key}") as caught:
            check_beforehand(options, [*REQUIRED, f"--{key}", "1"])
        assert "here " not in str(caught.value)
    with pytest.raises(ValueError, match=r"--model_name_or_path \(here model\)"):
        check_beforehand(options, [*REQUIRED, "--model_name_or_path", "m"])


def test_the_table_names_keys_of_train_and_none_that_train_takes() -> None:
    known = TRAIN.known()
    assert known is not None
    for key, here in OTHER_NAMES.items():
        assert key not in known
        assert set(here.keys) <= known, key
        assert here.keys or here.remark
        assert other_name(key, known) is here


def test_names_of_trl_are_those_of_the_installed_version() -> None:
    grpo = init_fields("trl", "GRPOConfig")
    assert grpo is not None
    of_scripts = {"model_name_or_path", "dataset_name", "dataset_train_split", "dataset_test_split", "reward_funcs"}
    of_earlier_versions = {"max_prompt_length"}
    trl = list(OTHER_NAMES)[: list(OTHER_NAMES).index("actor_rollout_ref")]
    assert {key for key in trl if key not in grpo} == of_scripts | of_earlier_versions


def test_the_documentation_shows_the_table() -> None:
    section = DOCS.read_text().partition("## Coming from TRL or veRL\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    shown = {name.strip(" `"): text for names, text in rows for name in names.split(",")}
    for key, here in OTHER_NAMES.items():
        assert shown.pop(key) == in_words(here), key
    assert set(shown) == {"per_device_train_batch_size", "gradient_accumulation_steps", "delta"}


def in_words(here: Here) -> str:
    return ": ".join(part for part in (", ".join(f"`{key}`" for key in here.keys), here.remark) if part)
