"""Problems from files and data sets, and the refusals that say what to write instead."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sgpo.problems import Problem, load_problems, problems_from, problems_to_dataset, save_problems
from sgpo.problems.inspection import fingerprint

FULL = [
    Problem("a", "1+1?", "2", r"\boxed{2}", "Problem type: sum", {"level": 1, "tags": ["easy"]}),
    Problem("b", "Größe von 3·4?", "12", None, None, {"level": 2, "tags": []}),
]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_saved_problems_come_back(tmp_path, suffix):
    path = tmp_path / "new" / f"problems{suffix}"
    save_problems(FULL, path)
    save_problems(FULL, path)
    assert load_problems(path) == FULL
    assert load_problems(str(path), limit=1) == FULL[:1]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_datasets_and_rows_come_back():
    dataset = problems_to_dataset(FULL)
    assert dataset.column_names == ["id", "prompt", "answer", "response", "strategy", "level", "tags"]
    assert dataset[1]["level"] == 2
    assert problems_from(dataset) == FULL
    assert problems_from(FULL) == FULL
    assert problems_from([dict(row) for row in dataset]) == FULL


def test_missing_texts_keep_their_type():
    dataset = problems_to_dataset([Problem("a", "p", "1")])
    assert dataset.features["strategy"] == datasets.Value("string")
    assert problems_from(dataset) == [Problem("a", "p", "1")]


def content_id(prompt, answer):
    return hashlib.sha256(json.dumps([prompt, answer]).encode()).hexdigest()[:16]


def test_ids_of_rows_without_one_follow_from_their_content(tmp_path):
    """Wherever a row stands and whatever else it holds; the hash is written out, as it must never change."""
    rows = [{"prompt": "1+1?", "answer": "2"}, {"prompt": "q", "answer": "3"}, {"id": None, "prompt": "q", "answer": 4}]
    first = load_problems(write_lines(tmp_path / "a.jsonl", rows))
    assert first[0].id == "82831a5898978c02"
    assert [p.id for p in first] == [content_id("1+1?", "2"), content_id("q", "3"), content_id("q", "4")]
    shuffled = [{**row, "level": 1} for row in reversed(rows)]
    assert [p.id for p in problems_from(shuffled)] == [p.id for p in reversed(first)]


def test_aliases_and_numbers(tmp_path):
    path = write_lines(
        tmp_path / "data.jsonl",
        [{"problem": "p0", "solution": 7, "strategy": "", "level": 3}, {"problem": "p1", "solution": "8"}],
    )
    assert load_problems(path) == [
        Problem(content_id("p0", "7"), "p0", "7", extra={"level": 3}),
        Problem(content_id("p1", "8"), "p1", "8"),
    ]


def test_answer_comes_before_its_alias(tmp_path):
    path = write_lines(tmp_path / "data.jsonl", [{"id": 5, "question": "p", "solution": "long", "answer": "7"}])
    assert load_problems(path) == [Problem("5", "p", "7", extra={"solution": "long"})]


def test_columns_are_mapped_in_parquet(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"prompt": ["ignored"], "q": ["p"], "final": [4], "key": ["k"]}), path)
    mapping = {"prompt": "q", "answer": "final", "id": "key"}
    assert load_problems(path, columns=mapping) == [Problem("k", "p", "4")]


def test_prompt_of_chat_messages(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"prompt": messages, "answer": "2"}]))
    assert load_problems(path) == [Problem(content_id("1+1?", "2"), "1+1?", "2")]
    dataset = datasets.Dataset.from_list([{"prompt": messages, "answer": "2"}])
    assert problems_from(dataset) == [Problem(content_id("1+1?", "2"), "1+1?", "2")]


def test_responses_of_chat_messages():
    """From a column of their own, or from the whole conversation."""
    target = [{"role": "assistant", "content": r"It is \boxed{2}."}]
    (problem,) = problems_from([{"prompt": "1+1?", "answer": "2", "target": target}], columns={"response": "target"})
    assert problem.response == r"It is \boxed{2}."
    row = {"messages": [{"role": "user", "content": "1+1?"}, *target], "answer": "2"}
    (problem,) = problems_from([row], columns={"prompt": "messages", "response": "messages"})
    assert (problem.prompt, problem.response, problem.extra) == ("1+1?", r"It is \boxed{2}.", {})
    with pytest.raises(ValueError, match="row 0: a response of chat messages needs an assistant turn"):
        problems_from(
            [{**row, "messages": row["messages"][:1]}], columns={"prompt": "messages", "response": "messages"}
        )


VERL = {
    "data_source": "math",
    "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+1?"}],
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"index": 7, "split": "train"},
}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", "dataset"])
def test_rows_of_verl_are_found(tmp_path, suffix):
    if suffix == "dataset":
        problems = problems_from(datasets.Dataset.from_list([VERL]))
    else:
        path = tmp_path / f"data{suffix}"
        if suffix == ".jsonl":
            write_lines(path, [VERL])
        else:
            pq.write_table(pa.Table.from_pylist([VERL]), path)
        problems = load_problems(path)
    extra = {name: VERL[name] for name in ("data_source", "reward_model", "extra_info")}
    assert problems == [Problem(content_id("1+1?", "2"), "1+1?", "2", extra=extra)]


def test_nested_columns_are_mapped():
    columns = {"id": "extra_info.index", "answer": "reward_model.ground_truth"}
    row = {**VERL, "answer": "another"}
    (problem,) = problems_from([row], columns=columns)
    assert (problem.id, problem.answer) == ("7", "2")
    # A column whose own name has a dot comes first.
    (problem,) = problems_from([{**row, "extra_info.index": "k"}], columns=columns)
    assert problem.id == "k"
    with pytest.raises(
        ValueError, match=r"no column 'reward_model\.truth' .*reward_model\.style, reward_model\.ground_truth"
    ):
        problems_from([row], columns={"answer": "reward_model.truth"})


def test_other_sources_go_through_datasets(monkeypatch):
    def load_dataset(name, *, split, revision):
        assert (name, split, revision) == ("someone/math", "test", "v2")
        return datasets.Dataset.from_dict({"question": ["p", "q"], "answer": ["1", "2"]})

    monkeypatch.setattr("sgpo.hub.out_of_reach", lambda address: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (problem,) = load_problems("someone/math", split="test", revision="v2", limit=1)
    assert problem == Problem(content_id("p", "1"), "p", "1")


@pytest.mark.parametrize("name", ["world", "world.jsonl"])
def test_a_folder_is_refused(name, tmp_path, monkeypatch):
    """`datasets` would take some of its files and leave the others."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    folder.mkdir()
    with pytest.raises(ValueError, match="is a folder") as caught:
        load_problems(name)
    assert str(caught.value) == f"{name} is a folder, in which no .parquet, .jsonl, .json file lies"
    (folder / "notes.txt").write_text("")
    for n in range(7):
        write_lines(folder / f"{n}.jsonl", [{"prompt": "p", "answer": "1"}])
    with pytest.raises(ValueError, match="is a folder") as caught:
        load_problems(f"{name}/")
    files = "0.jsonl, 1.jsonl, 2.jsonl, 3.jsonl, 4.jsonl, ..."
    assert str(caught.value) == f"{name} is a folder: name one of its files, {files}"


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (
            [{"text": "p", "answer": "1"}],
            None,
            r"row 0: no prompt: name its column with --columns prompt=NAME \(in Python columns=\{'prompt': 'NAME'\}\); "
            r"the data has the columns text, answer",
        ),
        (
            [{"id": "a", "prompt": "p", "answer": "1"}, {"id": "b", "prompt": "q"}],
            None,
            r"1 of 2 rows cannot be used: empty field: 1, e\.g\. row 1 \(id 'b'\) has no answer\. Mend them, or leave "
            r"them out with bad_rows: drop",
        ),
        ([{"prompt": "p", "answer": " "}, {"prompt": "p", "answer": "1"}], None, r"row 0 \(id '.*'\) has no answer"),
        ([{"prompt": None, "answer": "1"}], None, r"row 0 \(id '.*'\) has no prompt"),
        ([{"prompt": "p", "answer": 0.5}], None, r"row 0: answer must be a text or a whole number, not 0\.5"),
        (
            [{"prompt": "p", "answer": True}],
            None,
            r"row 0: answer must be a text or a whole number, not True",
        ),
        ([{"prompt": "p", "answer": ["1"]}], None, r"row 0: answer must be a text or a whole number"),
        ([{"prompt": 3, "answer": "1"}], None, r"row 0: prompt must be a text or a list of chat messages"),
        (
            [{"prompt": [{"role": "assistant", "content": "hello"}], "answer": "1"}],
            None,
            r"row 0: a prompt of chat messages needs exactly one user turn",
        ),
        ([{"prompt": "p", "answer": "1", "strategy": 4}], None, r"row 0: strategy must be a text or nothing"),
        (
            [{"id": "a", "prompt": "p", "answer": "1"}, {"id": "a", "prompt": "q", "answer": "2"}],
            None,
            r"id used twice: 1, e\.g\. row 1 \(id 'a'\) has the id of row 0",
        ),
        (
            [{"id": "a", "prompt": "p", "answer": "1"}, {"id": "b", "prompt": "p", "answer": "1"}],
            None,
            r"duplicate: 1, e\.g\. row 1 \(id 'b'\) has the prompt and answer of row 0",
        ),
        (
            [{"prompt": "p", "answer": "1"}],
            {"answer": "gold"},
            r"no column 'gold' for 'answer'; the data has",
        ),
        (
            [{"prompt": "p", "answer": "1"}],
            {"gold": "answer"},
            r"none of the fields of a problem, which are id, prompt",
        ),
        ([], None, "has no rows"),
    ],
)
def test_refusals_name_source_row_and_remedy(tmp_path, rows, columns, message):
    path = write_lines(tmp_path / "data.jsonl", rows)
    with pytest.raises(ValueError, match=message) as error:
        load_problems(path, columns=columns)
    assert "data.jsonl" in str(error.value) or "fields of a problem" in str(error.value)
    with pytest.raises(ValueError, match=message):
        problems_from(rows, columns=columns)


def test_refusals_of_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file nowhere\.jsonl with problems"):
        load_problems("nowhere.jsonl")
    table = tmp_path / "data.csv"
    table.write_text("prompt,answer\n")
    with pytest.raises(ValueError, match=r"read from \.parquet, \.jsonl, \.json files, not '\.csv'"):
        load_problems(table)
    broken = tmp_path / "data.jsonl"
    broken.write_text('{"prompt": "p", "answer": "1"}\n{"prompt"\n')
    with pytest.raises(ValueError, match=r"data\.jsonl, line 2: not valid JSON"):
        load_problems(broken)
    broken.write_text("[1]\n")
    with pytest.raises(ValueError, match=r"line 1: expected one JSON object"):
        load_problems(broken)
    single = tmp_path / "data.json"
    single.write_text('{"prompt": "p"}')
    with pytest.raises(ValueError, match="one list of objects"):
        load_problems(single)
    with pytest.raises(ValueError, match="limit is 0; it must be at least 1"):
        load_problems(single, limit=0)
    with pytest.raises(ValueError, match=r"saved as \.jsonl or \.parquet"):
        save_problems(FULL, tmp_path / "data.csv")


def test_refusals_of_records():
    with pytest.raises(ValueError, match=r"the list of problems: 1 of 2 rows .* row 1 \(id 'b'\) has no answer"):
        problems_from([Problem("a", "p", "1"), Problem("b", "p", " ")])
    with pytest.raises(ValueError, match=r"row 1 \(id 'a'\) has the id of row 0"):
        problems_from([Problem("a", "p", "1"), Problem("a", "q", "1")])
    with pytest.raises(ValueError, match="not a mixture"):
        problems_from([Problem("a", "p", "1"), {"prompt": "p", "answer": "1"}])
    with pytest.raises(ValueError, match="extra may not hold answer"):
        problems_to_dataset([Problem("a", "p", "1", extra={"answer": "2"})])


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_several_solutions_of_a_problem(tmp_path, suffix):
    """A list of texts or of conversations; it comes back from a file, beside problems with one and with none."""
    chat = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "two"}]
    rows = [
        {"prompt": "1+1?", "answer": "2", "response": ["a", "", "b"]},
        {"prompt": "1+2?", "answer": "3", "response": "c"},
        {"prompt": "1+3?", "answer": "4", "response": []},
        {"prompt": "1+4?", "answer": "5", "response": [chat, chat[1:]]},
    ]
    problems = problems_from(rows)
    assert [problem.responses for problem in problems] == [("a", "b"), ("c",), (), ("two", "two")]
    assert (problems[0].response, problems[0].more_responses) == ("a", ("b",))
    path = tmp_path / f"problems.{suffix}"
    save_problems(problems, path)
    assert load_problems(path) == problems
    assert fingerprint(problems) != fingerprint([replace(problems[0], more_responses=()), *problems[1:]])
    with pytest.raises(ValueError, match="row 0: response must be a text or nothing, not 3"):
        problems_from([{"prompt": "1+1?", "answer": "2", "response": ["a", 3]}])


def test_solutions_as_pandas_and_numpy_have_them():
    rows = [
        {"prompt": "1+1?", "answer": "2", "response": ["a", "b"]},
        {"prompt": "1+2?", "answer": "3", "response": []},
    ]
    expected = [("a", "b"), ()]
    assert [
        p.responses for p in problems_from(datasets.Dataset.from_list(rows).to_pandas().to_dict("records"))
    ] == expected
    assert [
        p.responses for p in problems_from([{**row, "response": tuple(row["response"])} for row in rows])
    ] == expected
