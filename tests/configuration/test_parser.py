"""Options are dataclasses, read by one parser; keys of transformers' and TRL's classes as TRL's parser reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from trl import TrlParser

from sgpo.cli import COMMANDS, main
from sgpo.configuration import parse
from sgpo.configuration.parser import option_keys
from sgpo.evaluation.arguments import EvalArguments
from sgpo.training.arguments import SFTArguments, TrainArguments
from sgpo.training.config import SGPOConfig
from sgpo.training.sft import WarmupConfig


@dataclass
class DrawArguments:
    """What is drawn."""

    sources: list[Path] = field(metadata={"positional": True})
    scale: float | None = 1.0
    max_rows: int = 3
    all_rows: bool = True
    names: list[str] = field(default_factory=list)
    body: dict[str, Any] = field(default_factory=dict)
    output: Path | None = None


def read(*arguments: str) -> DrawArguments:
    (options,) = parse("draw", (DrawArguments,), arguments)
    return options


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ([], {}),
        (["--max-rows", "5"], {"max_rows": 5}),
        (["--max_rows=5", "--max-rows=-1"], {"max_rows": -1}),  # the last one counts
        (["--scale", "-1e-3", "--no-all-rows"], {"scale": -1e-3, "all_rows": False}),
        (["--no_all_rows", "--all_rows"], {}),
        (["--all_rows", "No", "--scale", "default"], {"all_rows": False, "scale": None}),
        (["--scale", "none", "--output", "default"], {"scale": None, "output": Path("default")}),
        (["--names", "x", "y", "--body", '{"k": 1}'], {"names": ["x", "y"], "body": {"k": 1}}),
        (["--names=--x --y", "z"], {"names": ["--x --y", "z"]}),
        (["--max_rows", "5", "b"], {"max_rows": 5, "sources": [Path("a"), Path("b")]}),
    ],
)
def test_a_command_line_is_read(arguments: list[str], changes: dict[str, Any]) -> None:
    assert read("a", *arguments) == DrawArguments(**{"sources": [Path("a")], **changes})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "SOURCES must be given, here or as a key of the file that --config names"),
        (["a", "--max_rows"], "--max_rows needs a value"),
        (["a", "--names"], "--names needs a value, or several"),
        (["a", "--max-rows", "1.5"], "max_rows is '1.5'; it must be a whole number"),
        (["a", "--scale", "x"], "scale is 'x'; it must be a number"),
        (["a", "--all_rows", "x"], "all_rows is 'x'; it must be true or false"),
        (["a", "--body", "[1]"], "body is '[1]'; it must be a JSON object like {\"top_k\": 20}"),
        (
            ["a", "--max-row", "1", "--no_scale"],
            "unknown in the command line: --max-row (did you mean --max-rows?), --no_scale (did you mean --scale?); "
            "sgpo draw --help all lists what is known",
        ),
    ],
)
def test_what_is_wrong_is_said_in_the_same_words(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        read(*arguments)
    assert str(caught.value) == message


def test_a_text_that_belongs_to_no_option_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^'extra' belongs to no option; sgpo eval --help lists them$"):
        parse("eval", (EvalArguments,), ["--model", "m", "extra"])


def test_a_configuration_is_read_as_the_command_line_is(tmp_path: Path) -> None:
    file = tmp_path / "draw.yaml"
    file.write_text("sources: [a, b]\nscale: 1e-3\nmax_rows: 5\nnames: 1\nbody: {k: 1}\nall_rows: no\noutput: null\n")
    expected = DrawArguments([Path("a"), Path("b")], 1e-3, 5, False, ["1"], {"k": 1})
    assert read("--config", str(file)) == expected
    file.write_text("sources: a\nmax_rows: 1.5\n")
    with pytest.raises(ValueError, match=r"^max_rows is '1.5'; it must be a whole number$"):
        read("--config", str(file))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_unknown_options_in_the_same_words(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), "--confg", "x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"sgpo {command.split()[0]}: ")
    said = "unknown in the command line: --confg (did you mean --config?)"
    assert f"{said}; sgpo {command} --help all lists what is known\n" in error
    assert not list(tmp_path.iterdir())


class _Raising(TrlParser):
    def error(self, message: str) -> Any:
        raise ValueError(message)


TEXTS = [
    *([], ["1"], ["-1"], ["1.5"], ["1e-3"], ["x"], [""], ["true"], ["No"], ["None"], ["null"], ["a", "b"], ["1", "2"]),
    *(["steps"], ["no"], ["best"], ["adamw_torch"], ["checkpoint"], ["bfd"], ["warning"], ["underflow_overflow"]),
]
# Sections: JSON here, no text at all there.
OURS = {"liger_kernel_config", "extra_body", "method_options", "chat_template_kwargs"}


@pytest.mark.parametrize("kind", [SGPOConfig, WarmupConfig, TrainArguments, SFTArguments, EvalArguments])
def test_values_are_those_of_trl_s_parser(kind: Any) -> None:
    def outcome(read: Callable[[], Any]) -> Any:
        try:
            value = read()
        except (ValueError, TypeError):
            return "refused"
        return type(value), repr(value)

    theirs = _Raising([kind], allow_abbrev=False)
    for action in theirs._actions:
        action.required = False
    keys = option_keys([kind])
    for name, key in keys.items():
        for texts in TEXTS if name not in OURS else []:
            if len(texts) < 2 or key.many:
                expected = outcome(lambda: getattr(theirs.parse_args([f"--{name}", *texts]), name))  # noqa: B023
                assert outcome(lambda: key.from_texts(texts)) == expected, (name, texts)  # noqa: B023
    assert len(keys) >= 15
