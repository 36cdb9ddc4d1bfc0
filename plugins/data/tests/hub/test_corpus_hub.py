"""The corpus `hub` on local files: its suite, each form, ids, splits and limits, and mistakes said with the column."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
import pytest
from kdtool_data.hub import Hub
from kdtool_testing import CorpusConformance, make_run

HUB: dict[str, Any] = {"dataset": "a/b"}
TALK = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]


def write(path: Path, rows: list[dict[str, Any]] | str) -> Path:
    if isinstance(rows, str):
        path.write_text(rows, encoding="utf-8", newline="")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class TestParquet(CorpusConformance):
    component = Hub
    entry_point = "hub"
    settings: ClassVar = {"dataset": "some/set", "text_column": "content"}

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        rows = [{"content": f"x = {number}\n", "license": "mit"} for number in range(300)]
        path = write(folder / "code.parquet", rows)
        files = {"dataset": "", "files": [str(path)], "licence_column": "license"}
        return {**files, "shuffle_buffer": 50, "test_share": 0.2}


def examples(
    folder: Path,
    rows: list[dict[str, Any]] | str,
    name: str = "data.parquet",
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> list[kdtool.Example]:
    corpus = Hub(Hub.Config(files=(write(folder / name, rows),), **options))
    return list(corpus.kdtool_examples(make_run(folder, say=say)))


def test_each_form_is_made_of_its_columns(tmp_path: Path) -> None:
    def bodies(*rows: dict[str, Any], name: str = "data.parquet", **columns: Any) -> list[object]:
        return [one.body for one in examples(tmp_path, list(rows), name, **columns)]

    (text,) = examples(tmp_path, [{"content": "a"}], text_column="content", language="Python", licence="MIT")
    assert (text.body, text.language, text.licence, text.source) == (kdtool.Text("a"), "python", "MIT", "files")
    row: dict[str, Any] = {"task": "add", "answer": "x + 1", "lang": "Rust", "lic": ["MIT", "Apache-2.0", "MIT"]}
    columns = {"prompt": "task", "completion": "answer", "language": "lang", "licence": "lic"}
    named: dict[str, Any] = {f"{name}_column": column for name, column in columns.items()}
    (pair,) = examples(tmp_path, [row], **named)
    assert pair.body == kdtool.Completion("add", "x + 1")
    assert (pair.language, pair.licence) == ("rust", "MIT AND Apache-2.0")
    names = {"prompt_column": "task", "chosen_column": "good", "rejected_column": "bad"}
    whole, half = {"task": "add", "good": "x + 1", "bad": "x - 1"}, {"task": "add", "good": "x + 2", "bad": None}
    assert bodies(whole, half, **names) == [kdtool.Preference("add", "x + 1", "x - 1")]
    assert bodies({"task": "add"}, {"task": None}, prompt_column="task") == [kdtool.Completion("add", "")]
    turns = kdtool.Messages((("user", "1 + 1?"), ("assistant", "2")))
    assert bodies({"talk": TALK}, messages_column="talk") == [turns]
    shared = [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]
    assert bodies({"talk": shared}, name="a.jsonl", messages_column="talk") == [turns]


def test_tables_do_not_add_null_arguments_to_calls(tmp_path: Path) -> None:
    """Parquet gives every call of a column the arguments of all."""
    calls = [{"name": "f", "arguments": {"x": "1"}}, {"name": "g", "arguments": {"y": "2"}}]
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    (found,) = examples(tmp_path, [{"talk": talk, "tools": "[]"}], "data.parquet", messages_column="talk")
    nested = [{"type": "function", "function": call} for call in calls]
    assert found.body == kdtool.DetailedMessages((("user", "a"), ("assistant", "")), ({}, {"tool_calls": nested}))


TEXTS = [
    "None",
    "NA",
    "null",
    "nan",
    "False",
    "007",
    "1e5",
    "2024-01-01",
    "2024-01-01T00:00:00",
    "a\r\nb",
    "c,d",
    "\u2028",
]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet"])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:4], TEXTS[5:7], TEXTS[7:9]])
def test_text_is_not_taken_for_a_value_of_another_type(tmp_path: Path, name: str, texts: list[str]) -> None:
    cells = {
        "a.csv": "\ufeffid,content\r\n" + "".join(f'{number},"{text}"\r\n' for number, text in enumerate(texts)),
        "a.json": json.dumps([{"content": text} for text in texts], indent=1),
    }
    found = examples(tmp_path, cells.get(name, [{"content": text} for text in texts]), name, text_column="content")
    assert [one.body for one in found] == [kdtool.Text(text) for text in texts]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a.csv", "q,a\n1,x\n2,\n3,\n"),
        ("a.jsonl", [{"q": "1", "a": "x"}, {"q": "2", "a": None}, {"q": "3"}]),
        ("a.jsonl", [{"q": "1", "a": "x"}, {"q": None, "a": "x"}, {"a": "x"}]),
        ("a.parquet", [{"q": "1", "a": "x"}, {"q": "2", "a": None}, {"q": "3", "a": ""}]),
    ],
)
@pytest.mark.parametrize("shuffle_buffer", [None, 2])
def test_records_without_a_value_are_counted(tmp_path: Path, name: str, rows: Any, shuffle_buffer: int | None) -> None:
    said: list[str] = []
    columns = {"prompt_column": "q", "completion_column": "a"}
    found = examples(tmp_path, rows, name, said.append, shuffle_buffer=shuffle_buffer, **columns)
    assert [one.body for one in found] == [kdtool.Completion("1", "x")]
    assert len(said) == 1
    assert re.fullmatch(r"hub: left out 2 records without a value in column '[qa]', such as a\.\w+, row [23]", said[0])


def test_a_column_that_comes_late_does_not_matter_unless_it_is_used(tmp_path: Path) -> None:
    rows = [{"content": f"x = {number}", **({"late": {"x": 1}} if number > 1100 else {})} for number in range(1200)]
    assert len(examples(tmp_path, rows, "a.jsonl", text_column="content")) == 1200
    with pytest.raises(kdtool.UsageError, match=r"a\.jsonl, row 1: there is no column 'late'; there are content"):
        examples(tmp_path, rows, "a.jsonl", text_column="content", language_column="late")


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "a.jsonl",
            [{"content": "a"}, {"content": 5}],
            r"a\.jsonl, row 2: column 'content' contains 5, not text; save a",
        ),
        (
            "a.parquet",
            [{"content": date(2024, 1, 1)}],
            r"row 1: column 'content' contains datetime\.date\(2024, 1, 1\), not",
        ),
        ("a.parquet", [{"content": b"x"}], r"row 1: column 'content' contains b'x', not text"),
        (
            "a.csv",
            "content,b\na,b\na,b,c\n",
            r"a\.csv cannot be read after row 1: line 3 has 3 cells, the first line 2",
        ),
        ("a.csv", "content,b\na\n", r"a\.csv cannot be read: line 2 has 1 cells, the first line 2"),
        ("a.csv", "content,content\na,b\n", r"a\.csv cannot be read: .*'content', 'content'"),
        ("a.csv", 'content\n"a\n', r"a\.csv cannot be read: unexpected end of data"),
        ("a.jsonl", '{"content": "\\ud83d"}', r"a\.jsonl cannot be read"),
        ("a.jsonl", '{"content": "a"}\n["content"]', r"a\.jsonl cannot be read after row 1: .*not an object"),
        (
            "a.parquet",
            [{"messages": json.dumps(TALK)}],
            r"row 1: column 'messages' cannot be used: must be a list of messages; JSON in text is read by json\.loads",
        ),
        (
            "a.csv",
            'messages\n"[{""role"": ""user""}]"\n',
            r"row 1: column 'messages' cannot be used: must be a list of messages; JSON in text is read by json\.loads",
        ),
        (
            "a.parquet",
            [{"messages": {"role": ["user"], "content": ["a"]}}],
            r"row 1: column 'messages' cannot be used: must be a list of messages",
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_its_row(tmp_path: Path, name: str, rows: Any, message: str) -> None:
    columns: dict[str, Any] = {"messages_column": "messages"} if "messages" in message else {"text_column": "content"}
    with pytest.raises(kdtool.UsageError, match=message):
        examples(tmp_path, rows, name, **columns)


def test_an_example_keeps_its_id_and_split_however_it_is_read(tmp_path: Path) -> None:
    rows = [{"content": f"x = {number}"} for number in range(400)]
    shares: dict[str, Any] = {"text_column": "content", "validation_share": 0.1, "test_share": 0.2}
    plain = examples(tmp_path, rows, **shares)
    mixed = examples(tmp_path, rows[::-1][:300], shuffle_buffer=64, seed=3, **shares)
    splits = {example.id: (example.split, example.body) for example in plain}
    assert all(splits[example.id] == (example.split, example.body) for example in mixed)
    counts = {split: sum(example.split == split for example in plain) for split in ("train", "validation", "test")}
    assert counts["test"] == pytest.approx(80, abs=25)
    assert counts["validation"] == pytest.approx(40, abs=20)


def test_a_limit_counts_examples_after_shuffling(tmp_path: Path) -> None:
    rows = [{"content": f"x = {number}"} for number in range(100)]
    found = examples(tmp_path, rows, text_column="content", maximum_examples=7)
    assert [e.body for e in found] == [kdtool.Text(f"x = {number}") for number in range(7)]
    shuffled = examples(tmp_path, rows, text_column="content", maximum_examples=7, shuffle_buffer=90)
    assert len(shuffled) == 7
    assert [e.id for e in shuffled] != [e.id for e in found]


def test_ids_and_splits_may_be_columns(tmp_path: Path) -> None:
    rows = [{"content": "a", "path": "one.py", "part": "test"}, {"content": "b", "path": "two.py", "part": "train"}]
    found = examples(tmp_path, rows, text_column="content", id_column="path", split_column="part")
    assert [(e.id, e.split) for e in found] == [("one.py", "test"), ("two.py", "train")]
    with pytest.raises(kdtool.UsageError, match="the id 'test' is not unique in column 'part'"):
        examples(tmp_path, [rows[0], {**rows[1], "part": "test"}], text_column="content", id_column="part")


@pytest.mark.parametrize("id_column", [None, "path"])
def test_copies_of_a_text_are_on_one_side_whatever_their_ids_and_are_counted(
    id_column: str | None, tmp_path: Path
) -> None:
    rows = [
        {"content": f"x = {number}", "path": f"{copy}/{number}"} for number in range(100) for copy in ("repo", "fork")
    ]
    options: dict[str, Any] = {"text_column": "content", "id_column": id_column, "test_share": 0.3}
    said: list[str] = []
    corpus = Hub(Hub.Config(files=(write(tmp_path / "data.parquet", rows),), **options))
    found = list(corpus.kdtool_examples(make_run(tmp_path, say=said.append)))
    assert [example.body for example in found] == [kdtool.Text(f"x = {number}") for number in range(100)]
    assert said == ["hub: left out 100 copies of earlier records"]
    forks = examples(tmp_path, rows[1::2], "forks.parquet", **options)
    assert [e.split for e in forks] == [e.split for e in found], "another copy of a text is on the same side"
    assert len({e.split for e in found}) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_column": "code"}, r"no column 'code'; there are content, number"),
        ({"text_column": "number"}, r"column 'number' contains 1, not text"),
        ({"messages_column": "content"}, r"column 'content' cannot be used: must be a list of messages"),
        ({"text_column": "content", "split_column": "content"}, r"contains 'a', not train, validation or test"),
        ({"text_column": "content", "id_column": "half"}, r"column 'half' contains 0.5, not an id"),
    ],
)
def test_mistakes_are_said_with_the_column(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    rows = [{"content": "a", "number": 1, **({"half": 0.5} if "id_column" in options else {})}]
    with pytest.raises(kdtool.UsageError, match=message):
        examples(tmp_path, rows, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_column": "a"}, "needs `dataset`"),
        ({"dataset": "a/b", "files": (Path("x.parquet"),), "text_column": "a"}, "not both"),
        ({"files": (Path("x.parquet"),), "revision": "main", "text_column": "a"}, "apply to datasets on the Hub"),
        ({"files": (Path("a/x.parquet"), Path("b/x.parquet")), "text_column": "a"}, "same name"),
        (HUB, "name the columns of one format"),
        (HUB | {"completion_column": "a"}, "goes together"),
        (HUB | {"prompt_column": "a", "chosen_column": "b"}, "`rejected_column` go together"),
        (HUB | {"text_column": "a", "licences": ("mit",)}, "name its column in `licence_column`"),
    ],
)
def test_settings_that_say_too_much_or_too_little_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Hub.Config(**options)


def test_offline_a_data_set_of_the_hub_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    corpus = Hub(Hub.Config(dataset="some/set", text_column="content"))
    with pytest.raises(kdtool.ServiceError, match=r"some/set: .*offline.*name its files in the setting `files`"):
        corpus.kdtool_identity(make_run(tmp_path, offline=True))


def test_where_the_licence_is_said_follows_the_settings() -> None:
    def terms(**options: Any) -> kdtool.LicenceTerms | None:
        return Hub(Hub.Config(text_column="a", **options)).licence_terms

    assert terms(files=(Path("x.parquet"),)) is None
    assert terms(files=(Path("x.parquet"),), licence="MIT") == kdtool.LicenceTerms("MIT")
    named = terms(dataset="a/b")
    assert named is not None
    assert named.url == "https://huggingface.co/datasets/a/b"


def test_only_records_under_the_chosen_licences_are_used(tmp_path: Path) -> None:
    licences = ["MIT", "gpl-3.0", ["mit", "Apache-2.0"], ["mit", "gpl-2.0"], None, "my-own"]
    rows = [{"content": f"x = {number}\n", "license": licence} for number, licence in enumerate(licences)]
    file = write(tmp_path / "code.jsonl", rows)

    def texts(*allowed: str) -> tuple[list[str], list[str]]:
        said: list[str] = []
        config = Hub.Config(files=(file,), text_column="content", licence_column="license", licences=allowed)
        found = Hub(config).kdtool_examples(make_run(tmp_path, say=said.append))
        return [one.body.text for one in found if isinstance(one.body, kdtool.Text)], said

    assert texts("permissive") == (
        ["x = 0\n", "x = 2\n"],
        ["hub: left out 4 records with another licence than permissive"],
    )
    assert texts("mit", "my-own")[0] == ["x = 0\n", "x = 5\n"]
    assert len(texts()[0]) == 6
