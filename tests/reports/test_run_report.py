"""What `sgpo report` reads from a run's folder, and what it keeps of it."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_cases import HOSTILE_TEXTS, completion, write_evaluation, write_run, write_table
from rich.console import Console
from token_view_cases import ListTokenizer, made_up
from view_cases import write_views

from sgpo.cli import main
from sgpo.reports.page import script_json
from sgpo.reports.run_completions import HEAD, LONGEST, cut, gains_by_type, kept_problems, problem_data, read_sampled
from sgpo.reports.run_evaluations import compared_answers
from sgpo.reports.run_folder import read_run, read_runs, scores_of
from sgpo.reports.run_page import MOST_POINTS, run_report, thinned
from sgpo.reports.run_text import print_runs, sparkline
from sgpo.reports.run_views import MOST_VIEWS, kept_views


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_a_run_is_read(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"), "run")
    assert (run.updates, run.is_finished) == (20, True)
    assert run.values("alpha")[1][-1] == 0.0
    assert run.versions == [("sgpo", "0.1.0"), ("torch", "2.13.0")]
    first, last = scores_of(run)
    assert (first.mean, last.mean) == (0.2, 0.5)
    assert last.interval == pytest.approx((0.402, 0.598))
    assert last.label == "eval problems, avg@4"


def test_a_run_that_goes_on_is_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    with (folder / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 21, "alp')
    run = read_run(folder, "run")
    assert (run.updates, run.is_finished) == (20, False)


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / place / "sgpo") for place in ("a", "b")]
    assert [run.name for run in read_runs(folders)] == ["a/sgpo", "b/sgpo"]
    with pytest.raises(ValueError, match="named twice"):
        read_runs([folders[0], folders[0]])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", "{\n", "no JSON"),
        ("config.yaml", "- a\n", "no mapping"),
        ("config.yaml", "a: [\n", "cannot be read"),
        ("completions/step-000000.parquet", "no parquet", "no table of completions"),
        ("summary.json", "{}", "no summary of sgpo eval"),
        ("completions/step-000000.views.json", "{", "no token views of sgpo train"),
        ("completions/step-000000.views.json", '[{"step": 1}]', "no token views of sgpo train"),
    ],
)
def test_broken_files_are_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    run = write_run(tmp_path / "run")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(text)
    assert main(["report", str(run), "--output", str(tmp_path / "r.html")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "name the output_dir of sgpo train" in capsys.readouterr().err


def test_gains_and_unlocked_problems(tmp_path: Path) -> None:
    other = {"strategy": "Problem type: products\nStrategy: s\nSteps: t"}
    rows = [
        *(completion("1", "autonomous", False), completion("1", "guided", True, target=True)),
        *(completion("2", "autonomous", True), completion("2", "guided", True), completion("2", "guided", False)),
        *(completion("3", "autonomous", False, **other), completion("3", "guided", False, **other)),
        completion("4", "autonomous", False),  # not sampled with a strategy
    ]
    write_table(tmp_path, 0, rows)
    problems = read_sampled(tmp_path / "completions" / "step-000000.parquet", 0)
    assert [problem.gain for problem in problems] == [1.0, -0.5, 0.0, None]
    assert [problem.is_unlocked for problem in problems] == [True, False, False, False]
    sums, products = gains_by_type(problems)
    # gains 1 and -0.5: mean 0.25, standard error 0.75
    assert (sums["type"], sums["problems"], sums["gain"], sums["unlocked"]) == ("sums", 2, 0.25, 1)
    assert sums["interval"] == pytest.approx([-1.0, 1.0])  # 0.25 ± 1.47, within what is possible
    assert (products["gain"], products["interval"]) == (0.0, None)


def test_which_completions_are_kept(tmp_path: Path) -> None:
    outcomes = [(False, "w1"), (True, "c1"), (True, "c2"), (False, "w2"), (True, "t")]
    rows = [completion("1", "guided", correct, text, target=text == "t") for correct, text in outcomes]
    write_table(tmp_path, 0, rows)
    (problem,) = read_sampled(tmp_path / "completions" / "step-000000.parquet", 0)
    assert [each["text"] for each in problem_data(problem)["completions"]] == ["w1", "t"]


def test_tables_share_the_budget_in_turn(tmp_path: Path) -> None:
    for step in (0, 50, 100):
        rows = [completion(f"{step}-{n}", "autonomous", False, "x" * 1000) for n in range(20)]
        rows += [completion(f"{step}-7", "guided", True, "x" * 1000)]
        write_table(tmp_path, step, rows)
    tables = [read_sampled(path, 0) for path in sorted((tmp_path / "completions").glob("*"))]
    kept = kept_problems(tables, budget=10_000)
    assert [problem["id"] for problem in kept[:3]] == ["0-7", "100-7", "50-7"]  # unlocked; first and last table first
    assert 5_000 < len(script_json(kept)) <= 10_000


def test_answers_before_and_after(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "before", {"a": [True, False], "b": [False, False], "c": [True, True]}, "old")
    after = write_evaluation(tmp_path / "after", {"a": [True, True], "b": [True, True], "d": [True]}, "new")
    problems, common = compared_answers([before, after])
    assert (common, [problem["id"] for problem in problems]) == (2, ["b", "a"])  # the larger change first
    assert [(each["share"], each["text"]) for each in problems[0]["answers"]] == [(0.0, "old 0"), (1.0, "new 0")]
    assert compared_answers([before, after], budget=10) == ([], 2)
    greedy = (before / "samples" / "test.parquet").read_bytes()
    for folder in (before, after):
        (folder / "samples" / "test.greedy.parquet").write_bytes(greedy)
    assert compared_answers([before, after]) == (problems, 2)  # greedy answers beside sampled ones do not count
    page = run_report([read_run(write_run(tmp_path / "run"), "run")], {"before": before, "after": after})
    assert [score["label"] for score in data_of(page)["scores"][-2:]] == ["before: test, avg@4", "after: test, avg@4"]
    (after / "samples" / "test.parquet").write_text("none")
    with pytest.raises(ValueError, match=r"no samples of sgpo eval"):
        compared_answers([before, after])


def test_which_token_views_are_kept(tmp_path: Path) -> None:
    tokenizer = ListTokenizer(["x", "y"])
    runs = [write_run(tmp_path / name) for name in ("one", "two")]
    for step in (0, 50, 100):
        write_views(runs[0], step, [made_up([2, 3] * 9, 4, label=f"{step}-{n}", seed=n) for n in range(4)], tokenizer)
    write_views(runs[1], 0, [made_up([2, 3] * 9, 4, label="other")], tokenizer)
    means = {n: float(made_up([2, 3] * 9, 4, seed=n).measures.divergence.mean()) for n in range(4)}
    first, second, *_ = sorted(means, key=lambda n: -means[n])

    def ids(kept: list[tuple[str, dict[str, Any]]]) -> list[str]:
        return [label.partition(": ")[2].partition(",")[0] for label, _ in kept]

    one, two = read_runs(runs)
    assert ids(kept_views([one], most=2)) == [f"0-{first}", f"100-{first}"]  # of the first and of the last table
    assert ids(kept_views([one], most=4)) == [f"0-{first}", f"0-{second}", f"50-{first}", f"100-{first}"]
    assert ids(kept_views([one, two], most=2)) == [f"0-{first}", "other"]
    assert kept_views([one, two])[-1][0].startswith("two, after 0 updates: other, mean dₜ ")
    size = len(script_json(kept_views([one], most=1)[0][1]))
    assert len(kept_views([one], budget=int(2.5 * size))) == 2
    assert len(kept_views([one])) == MOST_VIEWS
    assert kept_views([read_run(write_run(tmp_path / "none"), "none")]) == []


def test_long_texts_lose_their_middle() -> None:
    shown = cut("a" * HEAD + "b" * 1_000_000 + "c" * (LONGEST - HEAD))
    assert shown.startswith("a" * HEAD + "\n[… 1,000,000 characters left out …]\n" + "c")
    assert "b" not in shown
    assert cut("\x00\u202e") == "␀⟨U+202E⟩"


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", updates=500)
    for step in range(0, 500, 50):
        rows = [
            completion(f"{step}-{n}", group, n % 2 == 0, f"{n} <é>" * 700)
            for n in range(64)
            for group in ("autonomous", "guided")
            for _ in range(4)
        ]
        write_table(run, step, rows)
        ids = [2 + n % 300 for n in range(1_000)]
        write_views(run, step, [made_up(ids, 300, seed=n) for n in range(4)], ListTokenizer([f" word{n}" for n in ids]))
    answers = {f"p{n}": [n % 2 == 0] for n in range(400)}
    evaluations = {name: write_evaluation(tmp_path / name, answers, "é" * 3_000) for name in ("before", "after")}
    page = run_report([read_run(run, "run")], evaluations)
    assert 4_000_000 < len(page.encode()) < 5_000_000
    assert data_of(page)["runs"][0]["sampled"] == 640
    assert 1 < len(data_of(page)["targets"]["answers"]) < MOST_VIEWS
    write_run(tmp_path / "longer", updates=5000)
    page = run_report([read_run(tmp_path / "longer", "longer")])
    assert max(len(line["x"]) for chart in data_of(page)["charts"] for line in chart["lines"]) <= MOST_POINTS


def test_a_thinned_curve_keeps_its_mean() -> None:
    steps, values = thinned(list(range(1, 1201)), [float(step) for step in range(1, 1201)])
    assert (len(steps), steps[0], steps[-1]) == (600, 2, 1200)
    assert values[:2] == [1.5, 3.5]
    assert thinned([], []) == ([], [])


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    hostile = "".join(HOSTILE_TEXTS)
    run = write_run(tmp_path / "run", config={"model": hostile})
    write_table(run, 0, [completion(hostile, "autonomous", True, hostile, prompt=hostile, strategy=hostile)])
    answer = dataclasses.replace(made_up([2, 3], 2), problem=hostile, strategy=hostile, facts=[hostile], label=hostile)
    write_views(run, 0, [answer], ListTokenizer([hostile, "x"]))
    page = run_report([read_run(run, hostile)])
    assert page.count("<script") == 3  # the report, the view, the page's own
    assert page.count("</script>") == 3
    assert "<img" not in page
    assert not re.search(r"[\x00\x1b\u202e\u2028]", page)
    assert not re.search(r"(src|href)=[\"']?https?:", page)
    assert data_of(page)["problems"][0]["prompt"] == cut(hostile)


def test_text_of_a_terminal(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_table(run, 0, [completion("1", "autonomous", False), completion("1", "guided", True)])
    written = io.StringIO()
    print_runs([read_run(run, "a\x1b[31m")], console=Console(file=written, width=100))
    text = written.getvalue()
    assert "\x1b" not in text
    assert "20 updates, finished" in text
    assert "avg@4: 50.0 % (95 %: 40.2 to 59.8)" in text
    assert "unlocked 1 of 1" in text
    assert sparkline([0, 1]) == "▁█"
    assert sparkline([3, 3]) == "▁▁"


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    run, output = write_run(tmp_path / "run"), tmp_path / "report.html"
    code = (
        "import sys; from sgpo.cli import main; "
        f"status = main(['report', {str(run)!r}, '--output', {str(output)!r}]); "
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Written to {output}" in done.stdout
    assert data_of(output.read_text(encoding="utf-8"))["refresh"] == 0


def test_watching_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, output = write_run(tmp_path / "run", finished=False), tmp_path / "report.html"
    refreshed = []

    def end(seconds: float) -> None:
        refreshed.append((seconds, data_of(output.read_text(encoding="utf-8"))["refresh"]))
        with (run / "metrics.jsonl").open("a") as lines:
            lines.write('{"step": 20, "train_runtime": 9.0}\n')

    monkeypatch.setattr("time.sleep", end)
    assert main(["report", str(run), "--output", str(output), "--watch", "30"]) == 0
    assert refreshed == [(30, 30)]
    assert data_of(output.read_text(encoding="utf-8"))["refresh"] == 0
