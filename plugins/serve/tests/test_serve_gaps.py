"""Gaps for models without FIM tokens: continued text that ends where the suffix begins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_serve.tasks import as_gap, end_at_suffix
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import SUFFIX_FIRST, infilling_by
from kdtool_transformers.streaming import StreamingRuntime as TransformersStreaming
from running import Running, running
from scripted import ScriptedModels, StreamingRuntime

CONTINUES = StreamingRuntime(abilities=frozenset({"continue"}))
SUFFIX = "\n\n\nprint(area(2, 3))\n"
CASES = [
    ("width * height\n\n\nprint(area(2, 3))\nprint(area(3, 4))\n", SUFFIX, "width * height"),
    ("width * height\n\nprint(area(2, 3)) + 1\n", SUFFIX, "width * height\n\nprint(area(2, 3)) + 1\n"),
    ("    x = 1\n    return x\n", "    return x\n", "    x = 1"),
    ("x = 1\n    return x\n", "\n    return x\n", "x = 1"),
    ("x = 1\nreturn x\n", "\n    return x\n", "x = 1\nreturn x\n"),
    ("width, height):\n    return 1\n", "):\n    pass", "width, height"),
    ("g(x), y), 2)\n", ")\nz = 1", "g(x), y), 2"),
    ("no bracket\nmore", ")", "no bracket"),
    ("word", "", "word"),
    ("word", "\n\n", "word"),
]


def _pieces(text: str, parts: list[str]) -> Iterator[kdtool.TextPiece]:
    assert "".join(parts) == text
    for number, part in enumerate(parts, 1):
        yield kdtool.TextPiece(part, 1, number, "length" if number == len(parts) else None)


@pytest.mark.parametrize(("text", "suffix", "kept"), CASES)
@given(data=st.data())
def test_a_continued_text_ends_where_the_suffix_begins_however_it_is_streamed(
    text: str, suffix: str, kept: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=8)))
    parts = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = list(end_at_suffix(_pieces(text, parts), suffix))
    assert "".join(piece.text for piece in found) == kept
    assert [piece.finish for piece in found[:-1]] == [None] * (len(found) - 1)
    assert found[-1].finish == ("length" if kept == text else "stop")


@pytest.mark.parametrize(
    "prompt",
    [
        "<fim_prefix>def f(<fim_suffix>):\n<fim_middle>",
        "<repo_name>x<file_sep>a.py\n<fim_prefix>def f(<fim_suffix>):\n<fim_middle>",
        "<|fim_prefix|>def f(<|fim_suffix|>):\n<|fim_middle|>",
        "<｜fim▁begin｜>def f(<｜fim▁hole｜>):\n<｜fim▁end｜>",
        "<|code_prefix|>def f(<|code_suffix|>):\n<|code_middle|>",
        "<PRE> def f( <SUF>):\n <MID>",
        "[SUFFIX]):\n[PREFIX]def f(",
        "<|user|>\n###MODE:BLOCK\n<|code_suffix|>):\n<|code_prefix|>def f(<|code_middle|><|assistant|>\n",
    ],
)
def test_fim_tokens_that_an_editor_writes_are_read(prompt: str) -> None:
    found = as_gap(kdtool.Request("0", prompt, 9), CONTINUES)
    assert (found.prompt, found.suffix) == ("def f(", "):\n")


def test_other_prompts_stay_as_they_are() -> None:
    for prompt in ("def f(", "<fim_prefix>def f(", "a <fim_suffix> b"):
        assert as_gap(kdtool.Request("0", prompt, 9), CONTINUES).suffix is None


@pytest.fixture
def control() -> StreamingRuntime:
    """A model without FIM tokens."""
    text = "width * height\n\n\nprint(area(2, 3))\nprint(area(3, 4))\n"
    return StreamingRuntime(lambda _: text, abilities=frozenset({"continue"}))


@pytest.fixture
def server(control: StreamingRuntime) -> Iterator[Running]:
    """A server with that model."""
    with running(ScriptedModels({"control": control})) as started:
        yield started


def test_all_three_protocols_fill_a_gap_and_say_how(
    server: Running, control: StreamingRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    before = "def area(width, height):\n    return "
    infill = server.post("/infill", input_prefix=before, input_suffix=SUFFIX)
    openai = server.post("/v1/completions", prompt=before, suffix=SUFFIX, max_tokens=99)
    marked = server.post(
        "/v1/completions", prompt=f"<fim_prefix>{before}<fim_suffix>{SUFFIX}<fim_middle>", max_tokens=99
    )
    ollama = server.post("/api/generate", model="control", prompt=before, suffix=SUFFIX, stream=False)
    texts = [infill.json()["content"], ollama.json()["response"]]
    texts += [each.json()["choices"][0]["text"] for each in (openai, marked)]
    assert texts == ["width * height"] * 4
    assert [each.headers["kdtool-gap"] for each in (infill, openai, marked, ollama)] == ["continued"] * 4
    assert {(asked.prompt, asked.suffix) for asked in control.asked} == {(before, None)}
    assert capsys.readouterr().err.count("control has no FIM tokens") == 1
    assert server.post("/api/show", model="control").json()["capabilities"] == ["completion", "insert"]


@pytest.mark.parametrize("name", ["zed", "zed-ollama", "continue-autocomplete"])
def test_fim_tokens_of_another_model_are_written_in_the_models_own_order(name: str) -> None:
    recorded = json.loads((Path(__file__).parent / f"recorded/{name}.json").read_text(encoding="utf-8"))
    student, starcoder = StreamingRuntime(), infilling_by("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    for family, expected in ((SUFFIX_FIRST, True), (starcoder, False)):
        student.infilling = family  # type: ignore[attr-defined]  # as runtimes of transformers and of GGUF files have it
        with running(ScriptedModels({"student": student})) as server:
            assert server.post(recorded["path"], **recorded["body"]).status_code == 200
        assert (student.asked[-1].suffix is not None) == expected
        assert student.asked[-1].prompt.startswith("<fim_prefix>") != expected
        assert student.asked[-1].heal == expected


def test_a_real_model_reads_its_family_from_its_tokenizer() -> None:
    runtime = TransformersStreaming(tiny_model())
    assert runtime.infilling is None
    request = kdtool.Request("0", "<fim_prefix>a<fim_suffix>b<fim_middle>", 9)
    assert as_gap(request, runtime).suffix == "b"


def test_a_stream_says_it_and_ends_there_too(server: Running) -> None:
    found = server.post("/api/generate", model="control", prompt="x = ", suffix=SUFFIX)
    assert found.headers["kdtool-gap"] == "continued"
    lines = [json.loads(line) for line in found.text.splitlines()]
    assert "".join(line["response"] for line in lines) == "width * height"
    assert lines[-1]["done_reason"] == "stop"


def test_a_model_with_fim_tokens_reads_the_suffix(student: StreamingRuntime) -> None:
    with running(ScriptedModels({"student": student})) as server:
        found = server.post("/infill", input_prefix="a", input_suffix="b")
    assert "kdtool-gap" not in found.headers
    assert student.asked[0].suffix == "b"


def test_a_real_model_without_fim_tokens_is_never_an_error() -> None:
    with running(ScriptedModels({"student": TransformersStreaming(tiny_model())})) as server:
        found = server.post("/infill", input_prefix="def f(", input_suffix="):\n    pass\n", n_predict=8)
        assert (found.status_code, found.headers["kdtool-gap"]) == (200, "continued")
        assert found.json()["tokens_predicted"] <= 8
