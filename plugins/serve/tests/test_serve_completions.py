"""Devices that improve completions at a cursor: units, syntax, the best of several, and shares of models."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_serve.devices import (
    Devices,
    candidates,
    choose_likeliest,
    cut_to_fit,
    end_at_unit,
    fitting_length,
    parse_shares,
)
from kdtool_serve.engine import cache_bytes, fitting_streams
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers.streaming import StreamingRuntime as TransformersStreaming
from running import running
from scripted import ScriptedModels, StreamingRuntime

PYTHON = "import math\n\n\ndef area(radius):\n    "
JAVA = "class Area {\n    double of(double r) {\n        return "
SYNTAX = [
    (PYTHON, "return math.pi * radius", "\n\n\nprint(area(2))\n", "return math.pi * radius"),
    (PYTHON, "return math.sqrt(radius))", "\n\n\nprint(area(2))\n", "return math.sqrt(radius)"),
    (PYTHON + "return math.sqrt(", "radius)", ")\n", "radius"),
    (PYTHON + "x = 1", "= = 2", "\n    return x\n", ""),
    (PYTHON + "x = ", "= = 2", "\n    return x\n", "= = 2"),  # nor does it parse without
    (JAVA, "Math.PI * r;\n    }\n}", "\n    }\n}\n", "Math.PI * r;"),
    ("Dear all,\n\nthe meeting ", "is (as always at nine.", "\n\nYours, Ann\n", "is (as always at nine."),
]
UNITS = [
    ("    x = ", "1\n    y = 2\nz = 3\n", "\n", "1\n    y = 2"),
    ("    x = f(", "1, 2\n    y = 3\n", ")\n", "1, 2"),
    ("x = ", "1\ny = 2\n", "\n", "1\ny = 2\n"),
    ("    ", "x = 1\n\n    y = 2", "\n", "x = 1\n\n    y = 2"),
]


def _pieces(text: str, cuts: list[int]) -> Iterator[kdtool.TextPiece]:
    ends = [0, *cuts, len(text)]
    for number, (begin, end) in enumerate(pairwise(ends), 1):
        yield kdtool.TextPiece(text[begin:end], 1, number, "length" if number == len(ends) - 1 else None)


@pytest.mark.parametrize(("before", "text", "after", "kept"), SYNTAX)
def test_text_that_does_not_parse_is_cut_in_the_language_of_the_code(
    before: str, text: str, after: str, kept: str
) -> None:
    assert text[: fitting_length(before, text, after)] == kept
    (*empty, last) = cut_to_fit(_pieces(text, [3]), before, after)
    assert (last.text, last.finish) == (kept, "length" if kept == text else "stop")
    assert [piece.text for piece in empty] == [""]


@pytest.mark.parametrize(("before", "text", "after", "kept"), UNITS)
@given(data=st.data())
def test_an_answer_ends_with_its_unit_however_it_is_streamed(
    before: str, text: str, after: str, kept: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1), max_size=8)))
    found = list(end_at_unit(_pieces(text, cuts), before, after))
    assert "".join(piece.text for piece in found) == kept
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


def test_the_likeliest_of_several_is_given_and_counts_as_one_completion() -> None:
    student = _Weighed()
    with running(ScriptedModels({"student": student}), devices=Devices(best_of=2)) as server:
        found = server.post("/infill", input_prefix="x", input_suffix="y", n_predict=9).json()
        assert found["content"] == "a2"
        counts = server.get("/v1/models").json()["data"][0]["kdtool"]["completions"]
    assert (counts["asked"], counts["shown"]) == (1, 1)
    assert [(asked.temperature, asked.logprobs) for asked in student.asked] == [(0.0, 0), (0.6, 0)]


def test_several_answers_of_openais_protocol_come_the_likeliest_first() -> None:
    student = _Weighed()
    with running(ScriptedModels({"student": student})) as server:
        found = server.post("/v1/completions", prompt="x", n=2, temperature=1, max_tokens=9).json()["choices"]
        single = server.post("/v1/completions", prompt="x", temperature=1, max_tokens=9).json()["choices"][0]
    assert [(choice["index"], choice["text"], choice["logprobs"]) for choice in found] == [
        (0, "a2", None),
        (1, "a1", None),
    ]
    assert single["logprobs"] is None
    assert student.asked[-1].logprobs is None


def test_real_answers_share_their_passes_and_the_first_is_the_greedy_one() -> None:
    runtime = TransformersStreaming(tiny_model())
    request = kdtool.Request("0", "def f(x):\n    return ", 8, heal=True)
    greedy = "".join(piece.text for piece in runtime.stream(request))
    asked = candidates(request, 3)
    alone = ["".join(piece.text for piece in runtime.stream(each)) for each in asked]
    *_, last = choose_likeliest([runtime.stream(each) for each in asked], request)
    assert alone[0] == greedy
    assert last.text in alone
    assert last.tokens_out == 24
    runtime.close()


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
    runtime = TransformersStreaming(tiny_model())
    facts = tiny_model().facts
    assert cache_bytes(runtime) == 2 * facts.layers * facts.kv_heads * (facts.hidden // facts.heads) * facts.context * 4
    assert fitting_streams(runtime) == runtime.streams
    free = type("Free", (), {"available": 6 * cache_bytes(runtime)})
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    assert fitting_streams(runtime) == 3
    assert fitting_streams(StreamingRuntime()) == 2
