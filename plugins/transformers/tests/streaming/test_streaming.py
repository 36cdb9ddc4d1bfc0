"""Streams against answers: alone and together, closed early, at their ends, and after an error.

The natural end of a text: repetition and the end of a function are found, and code of people is never cut.
"""

from __future__ import annotations

import ast
import sysconfig
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersRuntime, TransformersTokenizer, byte_tokenizer, end_naturally
from kdtool_transformers.streaming import streamer as streamer_module
from kdtool_transformers.streaming.answer import GrowingText
from kdtool_transformers.streaming.cache import RowCache, new_cache
from transformers import AutoConfig, DynamicCache

REQUESTS = [
    kdtool.Request("greedy", "def f", 40),
    kdtool.Request("sampled", "x = ", 30, temperature=0.7, seed=5),
    kdtool.Request("few", "x = ", 30, temperature=2.0, seed=5, top_k=3, top_p=0.8),
    kdtool.Request("long prompt", "for number in range(10):\n" * 16, 20),
    kdtool.Request("stops", "a", 50, temperature=0.9, seed=2, stop=("b", "é")),
    kdtool.Request("one", "print(", 1),
]
WINDOW = {"sliding_window": 20}


def _stream(runtime: TransformersRuntime, requests: Sequence[kdtool.Request]) -> dict[str, list[kdtool.TextPiece]]:
    with ThreadPoolExecutor(len(requests)) as pool:
        pieces = pool.map(lambda request: list(runtime.stream(request)), requests)
        return {request.id: found for request, found in zip(requests, pieces, strict=True)}


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kdtool-stream"]


def _wait_for_no_thread() -> None:
    end = time.monotonic() + 30
    while _threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert not _threads()


@pytest.mark.parametrize(
    ("family", "settings"),
    [("llama", {}), ("gemma2", WINDOW), ("gpt2", {}), ("starcoder2", WINDOW), ("cohere", {})],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_streams_that_share_passes_are_the_answers(family: str, settings: Any) -> None:
    model = tiny_model(family, **settings)
    runtime = TransformersRuntime(model)
    assert isinstance(new_cache(model.model.config), RowCache)
    twice = [replace(each, id=f"{each.id} {again}") for again in "ab" for each in REQUESTS]
    streams = _stream(runtime, twice)
    for found in runtime.answer(twice):
        pieces = streams[found.id]
        assert "".join(piece.text for piece in pieces) == found.text
        last = pieces[-1]
        assert (last.finish, last.tokens_in, last.tokens_out) == (found.finish, found.tokens_in, found.tokens_out)
        assert [piece.tokens_out for piece in pieces if piece.tokens_out][-1:] in ([found.tokens_out], [])
        assert all(piece.finish is None for piece in pieces[:-1])
    _wait_for_no_thread()


def test_states_that_are_no_columns_are_kept_for_each_text(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AutoConfig.for_model("qwen3_next")
    assert not isinstance(new_cache(config), RowCache)
    model = tiny_model()
    monkeypatch.setattr(streamer_module, "new_cache", lambda _: DynamicCache(config=model.model.config))
    runtime = TransformersRuntime(model)
    streams = _stream(runtime, REQUESTS)
    for found in runtime.answer(REQUESTS):
        assert "".join(piece.text for piece in streams[found.id]) == found.text


def test_a_long_prompt_is_read_in_chunks_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamer_module, "_CHUNK", 16)
    runtime = TransformersRuntime(tiny_model())
    short = runtime.stream(kdtool.Request("short", "x", 60))
    next(short)
    pieces = list(runtime.stream(kdtool.Request("long", "y" * 100, 4)))
    assert [piece.tokens_out for piece in pieces] == [0] * 6 + [1, 2, 3, 4]
    assert [piece.text for piece in pieces[:6]] == [""] * 6
    (alone,) = runtime.answer([kdtool.Request("long", "y" * 100, 4)])
    assert "".join(piece.text for piece in pieces) == alone.text
    assert len(list(short)) >= 6


def test_a_closed_stream_makes_room_at_the_next_token() -> None:
    runtime = TransformersRuntime(tiny_model())
    for _ in range(40):
        left = runtime.stream(kdtool.Request("left", "x = ", 400, temperature=1.0))
        next(left)
        left.close()  # type: ignore[attr-defined]
    other = runtime.stream(kdtool.Request("other", "def f", 30))
    next(other)
    streamer = runtime._streamer
    assert streamer is not None
    next(other)
    assert sum(len(batch.rows) for batch in streamer._batches) <= 2
    assert len(list(other)) > 0
    _wait_for_no_thread()
    assert not streamer._waiting


def test_more_requests_than_streams_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamer_module, "STREAMS", 2)
    runtime, most = TransformersRuntime(tiny_model()), 0
    advance = streamer_module.Streamer._advance

    def record(streamer: Any, rows: Any, logits: Any) -> None:
        nonlocal most
        most = max(most, len(rows))
        advance(streamer, rows, logits)

    monkeypatch.setattr(streamer_module.Streamer, "_advance", record)
    streams = _stream(runtime, REQUESTS)
    assert all(pieces[-1].finish for pieces in streams.values())
    assert most == 2


def test_a_prompt_that_the_memory_does_not_hold_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, forward = TransformersRuntime(tiny_model()), streamer_module.Streamer._forward
    running = runtime.stream(kdtool.Request("short", "x = ", 60))
    next(running)

    def fail_on_long(self: Any, new: Any, *arguments: Any) -> torch.Tensor:
        if len(new[0]) > 50:
            raise MemoryError("no room")
        return forward(self, new, *arguments)

    monkeypatch.setattr(streamer_module.Streamer, "_forward", fail_on_long)
    with pytest.raises(MemoryError, match="no room"):
        list(runtime.stream(kdtool.Request("long", "y" * 100, 5)))
    assert list(running)[-1].finish


def test_what_is_not_a_number_leaves_with_its_row() -> None:
    def row(length: int, value: float) -> RowCache:
        cache = RowCache()
        cache.update(*2 * [torch.full((1, 1, length, 2), value)], 0)
        return cache

    batch = RowCache()
    for _ in range(3):
        batch.add(row(8, torch.nan), 8)
    batch.keep([], 0)
    batch.add(row(4, 1.0), 4)
    batch.add(row(2, 3.0), 2)
    batch.add(row(6, 2.0), 6)
    (layer,) = batch.layers
    keys, _ = layer.update(*2 * [torch.zeros(3, 1, 1, 2)])
    assert keys.shape == (3, 1, 7, 2)
    assert torch.isfinite(keys).all()


def test_an_error_reaches_every_stream_and_the_next_ones_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = TransformersRuntime(tiny_model())
    forward, calls = streamer_module.Streamer._forward, 0

    def fail_later(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise MemoryError("no room")
        return forward(*arguments)

    def outcome(request: kdtool.Request) -> str:
        try:
            return str(len(list(runtime.stream(request))))
        except MemoryError as error:
            return str(error)

    monkeypatch.setattr(streamer_module.Streamer, "_forward", fail_later)
    with ThreadPoolExecutor(4) as pool:
        endless = [kdtool.Request(str(number), "x = ", 400, temperature=1.0, seed=number) for number in range(4)]
        assert list(pool.map(outcome, endless)) == ["no room"] * 4
    monkeypatch.setattr(streamer_module.Streamer, "_forward", forward)
    assert list(runtime.stream(REQUESTS[0]))[-1].finish
    _wait_for_no_thread()


def test_closing_the_runtime_ends_what_it_streams() -> None:
    runtime = TransformersRuntime(tiny_model())
    stream = runtime.stream(kdtool.Request("1", "x = ", 500, temperature=1.0))
    next(stream)
    runtime.close()
    assert not _threads()
    with pytest.raises(kdtool.UsageError, match="closed"):
        list(stream)
    with pytest.raises(kdtool.UsageError, match="closed"):
        list(runtime.stream(REQUESTS[0]))


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    runtime = TransformersRuntime(tiny_model())
    assert list(runtime.stream(kdtool.Request("1", "x" * 512, 5))) == [kdtool.TextPiece("", 512, 0, "refused")]
    last = list(runtime.stream(kdtool.Request("1", "x" * 511, 5)))[-1]
    assert (last.tokens_out, bool(last.finish)) == (1, True)


def test_a_prompt_that_begins_as_an_earlier_one_is_read_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    runtime = TransformersRuntime(model)
    read: list[int] = []
    forward = streamer_module.Streamer._forward

    def record(streamer: Any, new: Any, before: Any, cache: Any, *last: Any) -> torch.Tensor:
        read.append(len(new[0]))
        return forward(streamer, new, before, cache, *last)

    monkeypatch.setattr(streamer_module.Streamer, "_forward", record)
    begin = "def area(width, height):\n    return "
    list(runtime.stream(kdtool.Request("1", f"{begin}width", 1)))
    weights = runtime.memory()
    pieces = list(runtime.stream(kdtool.Request("2", f"{begin}height", 8)))
    assert read[:2] == [len(begin) + 5, 6]
    (plain,) = TransformersRuntime(tiny_model()).answer([kdtool.Request("2", f"{begin}height", 8)])
    assert "".join(piece.text for piece in pieces) == plain.text
    assert runtime.memory() > weights > sum(each.nbytes for each in model.model.parameters())
    list(runtime.stream(kdtool.Request("3", f"{begin}height", 1)))
    assert read[-1] == 1, "the last token is read again, for what follows it"


def test_log_probabilities_are_the_models_before_sampling() -> None:
    model = tiny_model()
    request = kdtool.Request("1", "x = ", 5, temperature=3.0, seed=1, top_k=4, logprobs=2)
    pieces = list(TransformersRuntime(model).stream(request))
    found = [each for piece in pieces for each in piece.logprobs]
    assert len(found) == pieces[-1].tokens_out > 1
    with torch.no_grad():
        values = (
            model.model(input_ids=torch.tensor([model.tokenizer.encode("x = ")])).logits[0, -1, :257].log_softmax(-1)
        )
    best = values.topk(2)
    names = [model.tokenizer.pieces([token])[0].decode("utf-8", "surrogateescape") for token in best.indices.tolist()]
    assert [name for name, _ in found[0].top] == names
    assert [value for _, value in found[0].top] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert found[0].logprob in [pytest.approx(value, abs=1e-4) for value in values.topk(4).values.tolist()]
    assert all(len(each.top) == 2 for each in found)


def _grow(tokenizer: TransformersTokenizer, request: kdtool.Request, answer: str) -> Iterator[str]:
    text = GrowingText(tokenizer, request, tokenizer.encode(request.prompt))
    for token in tokenizer.encode(answer):
        yield text.add(token)
        if text.has_stopped():
            break
    yield text.finish(ended=True)[0]


@pytest.mark.parametrize(
    ("answer", "stop", "suffix", "pieces"),
    [
        ("aé漢b", (), None, ["a", "", "é", "", "", "漢", "b", ""]),
        ("abXc", ("XY",), None, ["a", "b", "", "Xc", ""]),
        ("abXYc", ("XY",), None, ["a", "b", "", "", ""]),
        ("aXXYc", ("XY",), None, ["a", "", "X", "", ""]),
        ("x\nr2", (), "\nr1\n", ["x", "", "", "\nr2", ""]),
        ("x\nr1", (), "\nr1\n", ["x", "", "", "", ""]),
        ("g(y)", (), ")\n", ["g", "(", "y", "", ")"]),
        ("x\nr1\nXY", ("XY",), "\nr1\nz", ["x", "", "", "", "", "", "", ""]),
    ],
)
def test_text_is_held_back_only_while_it_may_not_belong_to_the_answer(
    answer: str, stop: tuple[str, ...], suffix: str | None, pieces: list[str]
) -> None:
    request = kdtool.Request("1", "x = ", 50, stop, suffix=suffix)
    assert list(_grow(byte_tokenizer(), request, answer)) == pieces


def test_threads_follow_one_another_and_end_with_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    happened = []

    @contextmanager
    def slow_to_leave(runtime: TransformersRuntime) -> Iterator[Any]:
        happened.append("enter")
        yield runtime.model
        time.sleep(0.2)
        happened.append("leave")

    monkeypatch.setattr(TransformersRuntime, "passes", slow_to_leave)
    runtime = TransformersRuntime(tiny_model())
    for request in REQUESTS[:2]:
        assert list(runtime.stream(request))[-1].finish
        time.sleep(0.05)  # the thread has nothing left to do
    runtime.close()
    assert happened == ["enter", "leave"] * 3  # the first asks for the model
    assert not _threads(), "a thread that computes while Python ends would abort the process"


LONGEST = 2000
"""Characters of a generated text in these tests."""


@cache
def modules() -> list[Path]:
    """Modules of the standard library without its tests, which repeat lines by the dozen."""
    library = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    return sorted(path for path in library.rglob("*.py") if not left_out & {*path.relative_to(library).parts})


@cache
def parsed(path: Path) -> tuple[str, list[ast.stmt]]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, ast.parse(text).body
    except (SyntaxError, ValueError):
        return "", []


def ended(prompt: str, text: str, size: int = 4, **request: Any) -> tuple[str, str, str]:
    """Return what is left of a text that is generated in pieces of `size` characters, its finish and the reason."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)] or [""]

    def generated() -> Iterator[kdtool.TextPiece]:
        for number, piece in enumerate(pieces, 1):
            yield kdtool.TextPiece(piece, 1, number, "length" if number == len(pieces) else None)

    found = list(end_naturally(generated(), kdtool.Request("1", prompt, 999, **request)))
    assert [one.finish for one in found[:-1]] == [None] * (len(found) - 1)
    return "".join(one.text for one in found), found[-1].finish or "", found[-1].reason


@given(st.data(), st.integers(1, 9))
def test_no_code_of_the_standard_library_is_taken_for_repetition(data: st.DataObject, size: int) -> None:
    text, _ = parsed(data.draw(st.sampled_from(modules())))
    start = data.draw(st.integers(0, len(text)))
    rest = text[start : start + LONGEST]
    assert ended("", rest, size) == (rest, "length", "")


@given(st.data(), st.integers(1, 9))
def test_a_function_of_the_standard_library_ends_where_python_says(data: st.DataObject, size: int) -> None:
    text, body = parsed(data.draw(st.sampled_from(modules())))
    defined = [
        (node, after)
        for node, after in pairwise(body)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.end_lineno != node.lineno
    ]
    if not defined:
        return
    node, after = data.draw(st.sampled_from(defined))
    lines = text.splitlines(keepends=True)
    cut = data.draw(st.integers(node.lineno, (node.end_lineno or 0) - 1))
    prompt, rest = "".join(lines[:cut]).removesuffix("\n"), "".join(lines[cut:])
    rest = "\n" + rest
    own = "\n" + "".join(lines[cut : node.end_lineno]).rstrip()
    begins = min([after.lineno, *(each.lineno for each in getattr(after, "decorator_list", []))])
    found, finish, reason = ended(prompt, rest[: len(own) + LONGEST], size)
    assert found.startswith(own)
    comments = found[len(own) :].split("\n")
    assert all(not line.strip() or "#" in line for line in comments), "comments behind the last statement may stay"
    if sum(map(len, lines[(node.end_lineno or 0) : begins - 1])) < LONGEST:
        assert (finish, reason) == ("stop", "the definition ended")


LINE = "    numbers.append(numbers[-1] + step)"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("\n    first = 1" + f"\n{LINE}" * 30, "\n    first = 1" + f"\n{LINE}" * 2),
        ("\n    return sum_numbers" + "_to_list" * 40, "\n    return sum_numbers" + "_to_list" * 3),
        ("\ndef a(x):\n    return x\n\n\ndef b(y):\n    return y\n\n" * 8, None),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_text_that_repeats_itself_ends_with_its_second_copy(text: str, kept: str | None, size: int) -> None:
    found, finish, reason = ended("x = 1", text, size)
    assert (finish, reason) == ("stop", "the text repeated itself")
    assert text.startswith(found)
    assert found == kept if kept else len(found) < len(text) / 3


@pytest.mark.parametrize(
    "text", ["= [" + "0, " * 300, "= (" + '"\\ufffe",\n    ' * 99, "-" * 79 + "\nx", " " * 500 + "x"]
)
def test_tables_of_literals_and_rules_may_repeat(text: str) -> None:
    assert ended("table ", text) == (text, "length", "")


BODY = "\n    total = 0\n    # of all\n    return total"
NEXT = "\n\n# the next\n@cache\ndef other():\n    pass\n"


@pytest.mark.parametrize(
    ("prompt", "text", "kept"),
    [
        ("def mean(numbers):", BODY + NEXT, BODY),
        ("import x\n\n\n@cache\nasync def mean(", f"a,\n    b,\n) -> int:{BODY}\n\nprint(mean([1]))", None),
        ("class Stack(list):\n", f'    """\nA stack\n    """{BODY}{NEXT}', f'    """\nA stack\n    """{BODY}'),
        ("@cache\n", f"def mean():{BODY}{NEXT}", f"def mean():{BODY}"),
        ("def mean(): ", "return 1\nprint(2)", "return 1"),
    ],
)
def test_a_definition_that_the_prompt_begins_ends_the_text(prompt: str, text: str, kept: str | None) -> None:
    kept = kept or text.removesuffix("\n\nprint(mean([1]))")
    assert ended(prompt, text) == (kept, "stop", "the definition ended")


@pytest.mark.parametrize(
    ("prompt", "request_"),
    [
        ("x = 1", {}), ("class of 1998:", {}), ("    def method(self):", {}), ("def f():\n    return 1\n\n\n", {}),
        ("def f():\n    return 1\n\n\nx = [", {}), ("def f():\n    x = '", {}), ("function def(a) {", {}),
        ("def f():", {"suffix": "\n"}), ("def f():", {"turns": (("user", "hi"),)}),
    ],
)  # fmt: skip
def test_other_prompts_end_at_no_definition(prompt: str, request_: dict[str, Any]) -> None:
    text = "1\ny = 2\n\n\ndef g():\n    return 3\n\n\nz = 4\n"
    assert ended(prompt, text, **request_) == (text, "length", "")
