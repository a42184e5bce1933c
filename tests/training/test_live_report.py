"""report.html of a run that trains: when it is written, and that a page that fails harms nothing."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from report_cases import write_run
from trainer_setup import MakeTrainer
from transformers import TrainerCallback

from sgpo.reports.run_folder import read_run
from sgpo.reports.run_output import write_report
from sgpo.runs.folder import REPORT
from sgpo.training.live_report import PAUSE, REFRESH, SHARE, LiveReport


def report_of(folder: str | Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="report">(.*?)</script>', (Path(folder) / REPORT).read_text(), re.DOTALL
    )
    assert found
    return json.loads(found[1])


class Reader(TrainerCallback):
    """The page as it stands when the next update begins: updates, seconds after which it loads itself again."""

    def __init__(self) -> None:
        self.pages: list[tuple[int, int] | None] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not (Path(args.output_dir) / REPORT).exists():
            self.pages.append(None)
            return
        report = report_of(args.output_dir)
        self.pages.append((report["runs"][0]["updates"], report["refresh"]))


def test_the_page_follows_the_run(
    make_trainer: MakeTrainer, problems: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def write(output: Path, runs: Any, **options: Any) -> None:
        written.append((runs[0].updates, options["refresh"]))
        write_report(output, runs, **options)

    monkeypatch.setattr("sgpo.training.live_report.write_report", write)
    steps = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 4}
    trainer = make_trainer(eval_dataset=problems[3:4], max_steps=6, **steps)
    reader = Reader()
    trainer.add_callback(reader)
    trainer.train()
    # After the first line, then after an evaluation; the other lines came too soon after a page.
    assert reader.pages == [None, (1, REFRESH), (1, REFRESH), (3, REFRESH), (3, REFRESH), (3, REFRESH)]
    assert written == [(1, REFRESH), (3, REFRESH), (6, REFRESH), (6, 0)]
    report = report_of(trainer.args.output_dir)
    assert (report["refresh"], report["runs"][0]["finished"], report["runs"][0]["updates"]) == (0, True, 6)
    assert report["runs"][0]["name"] == "run"
    assert report["targets"]["answers"]
    assert report["scores"]
    page = (Path(trainer.args.output_dir) / REPORT).stat()
    trainer.save_model()
    assert (Path(trainer.args.output_dir) / REPORT).stat() == page  # written once at the end
    card = read_run(Path(trainer.args.output_dir), "run").versions
    assert report["runs"][0]["versions"] == [list(each) for each in card]
    assert "torch" in dict(card)


def test_no_page_is_asked_for(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(live_report=False)
    trainer.train()
    trainer.save_model()
    assert not (Path(trainer.args.output_dir) / REPORT).exists()


def test_a_page_that_fails_harms_nothing(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer()
    (Path(trainer.args.output_dir) / REPORT / "file").mkdir(parents=True)  # a folder where the page should be
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 2
    (said,) = [text for text in caplog.messages if REPORT in text]
    assert said.startswith(f"{Path(trainer.args.output_dir) / REPORT} was not written: ")


def test_lines_of_metrics_cost_a_hundredth_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], []

    def take(seconds: float) -> Any:
        def write(*arguments: Any, **options: Any) -> None:
            written.append(now[0])
            now[0] += seconds

        return write

    page = LiveReport(write_run(tmp_path / "run"), {}, clock=lambda: now[0])
    for seconds, pause in ((0.01, PAUSE), (3.0, 3.0 / SHARE)):
        monkeypatch.setattr("sgpo.training.live_report.write_report", take(seconds))
        written.clear()
        page.write()
        end = now[0]
        for now[0] in (end, end + pause - 0.1, end + pause):
            page.after_line()
        assert written == [end - seconds, end + pause]
