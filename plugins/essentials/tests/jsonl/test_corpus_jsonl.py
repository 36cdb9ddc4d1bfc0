"""JSON Lines: the suite of corpora, the four forms, and errors that say where."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kdtool_essentials.jsonl import JsonLines
from kdtool_testing import CorpusConformance, make_run

LINES = [
    {"text": "print(1)\n", "split": "test", "licence": "MIT", "language": "Python"},
    {"prompt": "# one\n", "completion": "x = 1\n", "id": 7},
    {"prompt": "# one\n", "chosen": "x = 1\n", "rejected": "x = 2\n"},
    {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]},
]


class TestJsonLines(CorpusConformance):
    component = JsonLines
    entry_point = "jsonl"
    settings: ClassVar = {"files": ["some.jsonl"]}

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        path = folder / "some.jsonl"
        path.write_text("\n\n".join(json.dumps(line) for line in LINES), encoding="utf-8")
        with gzip.open(folder / "more.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write('{"text": "packed"}\n')
        return {"files": [str(path), str(folder / "more.jsonl.gz")]}


def examples(folder: Path, content: str | bytes, **options: Any) -> list[kdtool.Example]:
    path = folder / "data.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    corpus = JsonLines(JsonLines.Config(files=(path,), **options))
    return list(corpus.kdtool_examples(make_run(folder)))


def test_each_form_is_read(tmp_path: Path) -> None:
    text, completion, preference, messages = examples(tmp_path, "\n".join(map(json.dumps, LINES)), licence="Apache-2.0")
    assert text == kdtool.Example("data.jsonl:1", kdtool.Text("print(1)\n"), "test", "python", "MIT", "data.jsonl")
    assert (completion.id, completion.body) == ("7", kdtool.Completion("# one\n", "x = 1\n"))
    assert preference.body == kdtool.Preference("# one\n", "x = 1\n", "x = 2\n")
    assert messages.body == kdtool.Messages((("user", "1 + 1?"), ("assistant", "2")))
    assert (messages.split, messages.licence) == ("train", "Apache-2.0")


def test_a_prompt_may_have_no_answer(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "1 + 1?"}]
    lines = [{"prompt": "# one\n"}, {"prompt": "# two\n", "completion": None}, {"messages": turns}]
    bodies = [example.body for example in examples(tmp_path, "\n".join(map(json.dumps, lines)))]
    prompts = [kdtool.Completion("# one\n", ""), kdtool.Completion("# two\n", "")]
    assert bodies == [*prompts, kdtool.Messages((("user", "1 + 1?"),))]


def test_fields_may_have_other_names(tmp_path: Path) -> None:
    line = {"code": "x", "path": "a.py", "lang": "Rust", "part": "validation"}
    names = {"text_field": "code", "id_field": "path", "language_field": "lang", "split_field": "part"}
    (example,) = examples(tmp_path, json.dumps(line), **names)
    assert example == kdtool.Example("a.py", kdtool.Text("x"), "validation", "rust", "", "data.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": }', r"data\.jsonl:2:10: not JSON"),
        (b"[1]", r"data\.jsonl:2: expected an object, found list"),
        (b'{"text": "\xff"}', r"data\.jsonl:2: not JSON in UTF-8"),
        (b'{"text": 3}', r"data\.jsonl:2: field 'text' must be text, not int"),
        (b'{"prompt": "a", "rejected": "b"}', r"data\.jsonl:2: field 'completion' is missing"),
        (b'{"prompt": "a", "chosen": "b"}', r"data\.jsonl:2: field 'rejected' is missing"),
        (b'{"content": "a"}', r"data\.jsonl:2: found none of .*only \['content'\]"),
        (b'{"text": "a", "split": "dev"}', r"data\.jsonl:2: field 'split'.*'dev'"),
        (b'{"messages": [{"role": "user"}]}', r"data\.jsonl:2: field 'messages'"),
        (b'{"text": "a", "id": "first"}', r"data\.jsonl:2: the id 'first'"),
        (rb'{"text": "a\ud83d"}', r"data\.jsonl:2: field 'text' contains an unpaired surrogate, \\ud83d"),
        (rb'{"messages": [{"role": "user", "content": "\ud83d"}]}', r"field 'messages' contains an unpaired"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    with pytest.raises(kdtool.UsageError, match=message):
        examples(tmp_path, b'{"text": "a", "id": "first"}\n' + line)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"content": None, "tool_calls": [{}]}, "message 2: tool_calls: expected OpenAI's form"),
        ({"tool_calls": [{"name": "f", "arguments": "x"}]}, "message 2: tool_calls: expected OpenAI's form"),
        ({"tool_calls": "f()"}, "message 2: tool_calls: expected OpenAI's form"),
        ({"content": None, "tool_calls": []}, 'message 2: "content" is missing'),
        ({"content": "b", "reasoning_content": ["so"]}, "message 2 has reasoning_content"),
        ({"content": "b", "weight": 0.5}, "message 2 has weight"),
        ({"role": "user", "content": "b", "train": True}, "message 2 has train.* in a turn of user"),
        ({"role": "tool", "content": "b", "tool_calls": [{"name": "f"}]}, "message 2 has tool_calls"),
        ({"content": "b", "prefix": True}, "message 2 has prefix"),
        ({"content": [{"type": "text", "text": "b"}]}, 'message 2: "content" must be text, not list'),
    ],
)
def test_what_a_turn_cannot_hold_is_refused_by_name(tmp_path: Path, answer: dict[str, Any], said: str) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", **answer}]
    with pytest.raises(kdtool.UsageError, match=f"data.jsonl:1: field 'messages' cannot be used: {said}"):
        examples(tmp_path, json.dumps({"messages": turns}))


def test_forms_of_conversations_mean_the_same(tmp_path: Path) -> None:
    usual = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 1}]}
    shared = {"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "train": True}]}
    model = {"messages": [{"role": "User", "content": "a", "name": ""}, {"role": "model", "content": "b"}]}
    told = {"system": "s", **usual}
    calls = [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "[]"}]
    shared_calls = [
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": "[]"},
    ]
    assert kdtool.Messages.of(shared_calls) == kdtool.Messages.of(calls)
    turns = (("user", "a"), ("assistant", "b"))
    found = [example.body for example in examples(tmp_path, "\n".join(map(json.dumps, (usual, shared, model, told))))]
    assert found == [*[kdtool.Messages(turns)] * 3, kdtool.Messages((("system", "s"), *turns))]
    for odd, said in (
        ({"tools": [{"function": 1}]}, "comes with tools: expected"),
        ({"system": [1]}, "with a system besides"),
    ):
        with pytest.raises(kdtool.UsageError, match=f"data.jsonl:1: field 'messages' cannot be used: .*{said}"):
            examples(tmp_path, json.dumps({**odd, **usual}))


CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": "sk"}}}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("extra", "answer", "detail", "parts"),
    [
        ({}, {"content": None, "tool_calls": [CALL]}, {"tool_calls": [CALL]}, ("f", "sk")),
        ({}, {"tool_calls": [{"name": "f", "arguments": '{"x": "sk"}'}]}, {"tool_calls": [CALL]}, ("f", "sk")),
        ({"tools": json.dumps([{"name": "f"}])}, {"content": ""}, {}, ("name", "f")),
        ({"tools": [TOOL]}, {"content": ""}, {}, ("name", "f")),
        ({}, {"content": "", "thinking": "so"}, {"reasoning_content": "so"}, ("so",)),
        ({}, {"content": "", "weight": 0}, {"weight": 0}, ()),
        ({}, {"content": "", "train": False}, {"weight": 0}, ()),
    ],
)
def test_what_a_conversation_has_besides_texts_is_kept(
    tmp_path: Path, extra: dict[str, Any], answer: dict[str, Any], detail: dict[str, Any], parts: tuple[str, ...]
) -> None:
    turns = [{"role": "user", "content": "a", "weight": 0}, {"role": "assistant", **answer}]
    (found,) = examples(tmp_path, json.dumps({"messages": turns, **extra}))
    body = found.body
    assert body == kdtool.DetailedMessages((("user", "a"), ("assistant", "")), ({}, detail), (TOOL,) if extra else ())
    assert isinstance(body, kdtool.Messages)
    assert body.targets == (False, "weight" not in detail)
    assert set(parts) <= set(kdtool.parts_of(body)), "filters read it"


def test_a_character_in_two_escapes_is_whole(tmp_path: Path) -> None:
    (example,) = examples(tmp_path, rb'{"text": "\ud83d\ude00"}')
    assert example.body == kdtool.Text("\N{GRINNING FACE}")


@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_bytes_are_a_user_s_error(tmp_path: Path, content: bytes) -> None:
    with suppress(kdtool.UsageError):
        examples(tmp_path, content)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing = JsonLines(JsonLines.Config(files=(tmp_path / "none.jsonl",)))
    with pytest.raises(kdtool.UsageError, match=r"none\.jsonl"):
        missing.kdtool_identity(make_run(tmp_path))
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 99)[:-9])
    torn = JsonLines(JsonLines.Config(files=(tmp_path / "torn.jsonl.gz",)))
    with pytest.raises(kdtool.UsageError, match=r"torn\.jsonl\.gz"):
        list(torn.kdtool_examples(make_run(tmp_path)))


def test_files_of_one_name_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="same name"):
        JsonLines.Config(files=(Path("a/x.jsonl"), Path("b/x.jsonl")))


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "endless.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "x"}\n')
        file.truncate(3 * 2**30)  # a sparse file, which takes no space
    corpus = JsonLines(JsonLines.Config(files=(path,)))
    tracemalloc.start()
    try:
        with pytest.raises(kdtool.UsageError, match=r"endless.jsonl:2: the line is longer than 4 MiB; write one"):
            list(corpus.kdtool_examples(make_run(tmp_path)))
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    finally:
        tracemalloc.stop()
