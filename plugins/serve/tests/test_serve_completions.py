"""Completions at a cursor: units, gaps for models without FIM tokens, several choices, and shares of models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_serve.devices import end_at_unit, parse_shares
from kdtool_serve.engine import cache_bytes, fitting_streams
from kdtool_serve.tasks import as_gap, end_at_suffix
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import SUFFIX_FIRST, TransformersRuntime, infilling_by
from running import Running, running
from scripted import ScriptedModels, StreamingRuntime

SUFFIX = "\n\n\nprint(area(2, 3))\n"
UNITS = [
    (partial(end_at_unit, before=before, after=after), text, kept)
    for before, text, after, kept in [
        ("    x = ", "1\n    y = 2\nz = 3\n", "\n", "1\n    y = 2"),
        ("    x = f(", "1, 2\n    y = 3\n", ")\n", "1, 2"),
        ("x = ", "1\ny = 2\n", "\n", "1\ny = 2\n"),
        ("    ", "x = 1\n\n    y = 2", "\n", "x = 1\n\n    y = 2"),
        ("    ", 'x = """\ntext\n"""\n    y\nz', "\n", 'x = """\ntext\n"""\n    y'),
        ("    ", "x = '''\ntext", "\n", "x = '''\ntext"),
        ("    x = f(", '"""\ntext\n"""\ny', ")\n", '"""\ntext\n"""'),
        ('    """Doc\n    ', 'more.\n    """\n    x = 1\ny', "\n", 'more.\n    """\n    x = 1'),
        ("    ", "a();\n#ifdef X\n    b();\n#endif\n}\n", "\n", "a();\n#ifdef X\n    b();\n#endif"),
        ("    ", "x\n# note\n    y", "\n", "x"),
    ]
]
GAPS = [
    (partial(end_at_suffix, suffix=suffix), text, kept)
    for text, suffix, kept in [
        ("width * height\n\n\nprint(area(2, 3))\nprint(area(3, 4))\n", SUFFIX, "width * height"),
        ("width * height\n\nprint(area(2, 3)) + 1\n", SUFFIX, "width * height\n\nprint(area(2, 3)) + 1\n"),
        ("    x = 1\n    return x\n", "    return x\n", "    x = 1"),
        ("x = 1\n    return x\n", "\n    return x\n", "x = 1"),
        ("width, height):\n    return 1\n", "):\n    pass", "width, height"),
        ("g(x), y), 2)\n", ")\nz = 1", "g(x), y), 2"),
        ("word", "", "word"),
    ]
]


def _pieces(text: str, cuts: list[int]) -> Iterator[kdtool.TextPiece]:
    ends = [0, *cuts, len(text)]
    for number, (begin, end) in enumerate(pairwise(ends), 1):
        yield kdtool.TextPiece(text[begin:end], 1, number, "length" if number == len(ends) - 1 else None)


@pytest.mark.parametrize(("end", "text", "kept"), [*UNITS, *GAPS])
@given(data=st.data())
def test_an_answer_ends_with_its_unit_or_before_the_suffix_however_it_is_streamed(
    end: Callable[[Iterator[kdtool.TextPiece]], Iterator[kdtool.TextPiece]], text: str, kept: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=8)))
    found = list(end(_pieces(text, cuts)))
    assert "".join(piece.text for piece in found) == kept
    assert [piece.finish for piece in found[:-1]] == [None] * (len(found) - 1)
    assert found[-1].finish == ("length" if kept == text else "stop")


class _Weighed(StreamingRuntime):
    """Answers by the seed, each with another log-probability."""

    infilling = None

    def stream(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        self.asked.append(request)
        number = len(self.asked) if request.temperature else 0
        chance = -5.0 if not number else -1.0 / number
        logprobs = () if request.logprobs is None else (kdtool.TokenLogprob(f"a{number}", chance),)
        yield kdtool.TextPiece(f"a{number}", 1, 1, "stop", logprobs=logprobs)


def test_several_answers_of_openais_protocol_come_the_likeliest_first() -> None:
    student = _Weighed()
    with running(ScriptedModels({"student": student})) as server:
        found = server.post("/v1/completions", prompt="x", n=2, temperature=1, max_tokens=9).json()["choices"]
        single = server.post("/v1/completions", prompt="x", temperature=1, max_tokens=9).json()["choices"][0]
    chosen = [(choice["index"], choice["text"], choice["logprobs"]) for choice in found]
    assert chosen == [(0, "a2", None), (1, "a1", None)]
    assert single["logprobs"] is None
    assert student.asked[-1].logprobs is None


def test_a_share_of_the_students_completions_goes_to_the_control() -> None:
    models = ScriptedModels({"student": StreamingRuntime(), "control": StreamingRuntime()})
    with running(models, shares={"control": 0.5}) as server:
        for _ in range(40):
            server.post("/infill", input_prefix="x = ", n_predict=5)
        server.post("/v1/completions", prompt="x = ", natural_end=True)  # the page compares models by name
        counts = [card["kdtool"]["completions"]["asked"] for card in server.get("/v1/models").json()["data"]]
    assert sum(counts) == 40
    assert min(counts) > 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("teacher=0.5", "expected a model besides student"),
        ("control=half", "'half' is not a number"),
        ("control=2", "at most 1"),
    ],
)
def test_a_wrong_share_is_refused(given: str, message: str) -> None:
    with pytest.raises(kdtool.UsageError, match=message):
        parse_shares([given], ["student", "control"])


def test_answers_at_once_are_limited_by_the_memory_of_their_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = TransformersRuntime(tiny_model())
    facts = tiny_model().facts
    assert cache_bytes(runtime) == 2 * facts.layers * facts.kv_heads * (facts.hidden // facts.heads) * facts.context * 4
    assert fitting_streams(runtime) == runtime.streams
    free = type("Free", (), {"available": 6 * cache_bytes(runtime)})
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    assert fitting_streams(runtime) == 3
    assert fitting_streams(StreamingRuntime()) == 2


CONTINUES = StreamingRuntime(abilities=frozenset({"continue"}))


@pytest.mark.parametrize(
    "prompt",
    [
        "<fim_prefix>def f(<fim_suffix>):\n<fim_middle>",
        "<repo_name>x<file_sep>a.py\n<fim_prefix>def f(<fim_suffix>):\n<fim_middle>",
        "<｜fim▁begin｜>def f(<｜fim▁hole｜>):\n<｜fim▁end｜>",
        "<PRE> def f( <SUF>):\n <MID>",
        "[SUFFIX]):\n[PREFIX]def f(",
        "<|user|>\n###MODE:BLOCK\n<|code_suffix|>):\n<|code_prefix|>def f(<|code_middle|><|assistant|>\n",
    ],
)
def test_fim_tokens_that_an_editor_writes_are_read(prompt: str) -> None:
    found = as_gap(kdtool.Request("0", prompt, 9), CONTINUES)
    assert (found.prompt, found.suffix) == ("def f(", "):\n")


def test_other_prompts_stay_as_they_are() -> None:
    for prompt in ("def f(", "<fim_prefix>def f(", "a <fim_suffix> b", "Usage: rename [SUFFIX] [PREFIX] FILE"):
        assert as_gap(kdtool.Request("0", prompt, 9), CONTINUES).suffix is None


@pytest.fixture
def control() -> StreamingRuntime:
    """A model without FIM tokens."""
    text = "width * height\n\n\nprint(area(2, 3))\nprint(area(3, 4))\n"
    return StreamingRuntime(lambda _: text, abilities=frozenset({"continue"}))


@pytest.fixture
def without_fim(control: StreamingRuntime) -> Iterator[Running]:
    """A server with that model."""
    with running(ScriptedModels({"control": control})) as started:
        yield started


def test_all_three_protocols_fill_a_gap_and_say_how(
    without_fim: Running, control: StreamingRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    before = "def area(width, height):\n    return "
    infill = without_fim.post("/infill", input_prefix=before, input_suffix=SUFFIX)
    openai = without_fim.post("/v1/completions", prompt=before, suffix=SUFFIX, max_tokens=99)
    marked = without_fim.post(
        "/v1/completions", prompt=f"<fim_prefix>{before}<fim_suffix>{SUFFIX}<fim_middle>", max_tokens=99
    )
    ollama = without_fim.post("/api/generate", model="control", prompt=before, suffix=SUFFIX, stream=False)
    texts = [infill.json()["content"], ollama.json()["response"]]
    texts += [each.json()["choices"][0]["text"] for each in (openai, marked)]
    assert texts == ["width * height"] * 4
    assert [each.headers["kdtool-gap"] for each in (infill, openai, marked, ollama)] == ["continued"] * 4
    assert {(asked.prompt, asked.suffix) for asked in control.asked} == {(before, None)}
    assert capsys.readouterr().err.count("control has no FIM tokens") == 1
    assert without_fim.post("/api/show", model="control").json()["capabilities"] == ["completion", "insert"]


WINDOWS = {"prompt": "def f():\r\n    ", "suffix": "\r\n\r\nf()\r\n"}
UNIX = {"prompt": "def f():\n    ", "suffix": "\n\nf()\n"}


@pytest.mark.parametrize("abilities", [{"continue"}, {"continue", "infill"}])
@pytest.mark.parametrize("written", ["x = 1\n    return x\n", "x = 1\r\n    return x\r\n"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "given", "newline", "read"),
    [
        ("/v1/completions", WINDOWS, "\r\n", UNIX["prompt"]),
        ("/v1/completions", UNIX, "\n", UNIX["prompt"]),
        ("/v1/completions", {"prompt": WINDOWS["prompt"], "stop": ["\r\n\r\n"]}, "\r\n", UNIX["prompt"]),
        ("/v1/completions", {**WINDOWS, "logprobs": 0}, None, WINDOWS["prompt"]),
        ("/infill", {"input_prefix": WINDOWS["prompt"], "input_suffix": WINDOWS["suffix"]}, "\r\n", UNIX["prompt"]),
        ("/api/generate", WINDOWS, "\r\n", UNIX["prompt"]),
    ],
)
def test_line_ends_of_the_request_come_back_and_the_model_reads_lf(
    abilities: set[kdtool.Ability],
    written: str,
    stream: bool,
    path: str,
    given: dict[str, Any],
    newline: str | None,
    read: str,
) -> None:
    student = StreamingRuntime(lambda _: written, abilities=frozenset(abilities))
    with running(ScriptedModels({"student": student})) as server:
        response = server.post(path, **{"model": "student", "stream": stream, **given})
    lines = (
        [line.removeprefix("data: ") for line in response.text.split("\n") if "{" in line]
        if stream
        else [response.text]
    )
    events = [json.loads(line) for line in lines]
    parts = [event["choices"][0] if "choices" in event else event for event in events]
    text = "".join(part.get("text", part.get("content", part.get("response"))) for part in parts)
    expected = written if newline is None else written.replace("\r", "").replace("\n", newline)
    assert text.rstrip("\r\n") == expected.rstrip("\r\n")
    assert text == text.rstrip("\r\n") or newline is None or text.endswith(newline)
    assert (student.asked[0].prompt, "\r" in "".join(student.asked[0].stop)) == (read, False)


@pytest.mark.parametrize("abilities", [{"continue"}, {"continue", "infill"}])
@pytest.mark.parametrize("after", ["", ")\n" + "late " * 300, "\nword", "r" * 900])
@pytest.mark.parametrize(("limit", "room"), [({}, 256), ({"n_predict": 300}, 300), ({"n_predict": 9000}, 500)])
def test_a_long_prompt_leaves_room_for_its_answer_and_is_never_an_empty_one(
    abilities: set[kdtool.Ability], after: str, limit: dict[str, int], room: int
) -> None:
    student = StreamingRuntime(lambda _: "return " * 9, abilities=frozenset(abilities))
    with running(ScriptedModels({"student": student})) as server:
        found = server.post("/infill", input_prefix="early " * 2000, input_suffix=after, **limit).json()
        refused = server.post("/v1/completions", prompt="early " * 2000, suffix=after or "x")
    assert found["content"].startswith("return")
    (asked,) = student.asked[:1]
    assert asked.max_tokens == limit.get("n_predict", 256)
    assert 100 < len(f"{asked.prompt} {asked.suffix or ''}".split()) <= 1000 - room
    assert found["truncated"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


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


def test_a_real_model_without_fim_tokens_is_never_an_error() -> None:
    with running(ScriptedModels({"student": TransformersRuntime(tiny_model())})) as server:
        found = server.post("/infill", input_prefix="def f(", input_suffix="):\n    pass\n", n_predict=8)
        assert (found.status_code, found.headers["kdtool-gap"]) == (200, "continued")
        assert found.json()["tokens_predicted"] <= 8
