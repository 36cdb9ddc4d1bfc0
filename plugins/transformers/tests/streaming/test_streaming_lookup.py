"""Prompt lookup: proposals against a search from the end, and answers against those without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers.streaming import StreamingRuntime
from kdtool_transformers.streaming.answer import PromptLookup
from kdtool_transformers.streaming.streamer import Streamer

LOOP = "for x in y:\n    f(x)\n" * 6
REQUESTS = [
    kdtool.Request("greedy", LOOP, 60),
    kdtool.Request("sampled", LOOP, 60, temperature=0.7, seed=5),
    kdtool.Request("few", LOOP, 60, temperature=1.0, seed=5, top_k=2, logprobs=2),
    kdtool.Request("stops", LOOP, 60, temperature=0.9, seed=2, stop=("b", "é"), logprobs=0),
    kdtool.Request("heals", f"{LOOP}for x i", 40, heal=True),
    kdtool.Request("one", LOOP, 1),
    kdtool.Request("fills the context", "x = 1\n" * 80, 400),
]
WINDOW = {"sliding_window": 20}


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=10), st.integers(0, 5))
def test_the_latest_occurrence_of_the_last_tokens_is_continued(first: list[int], more: list[int], most: int) -> None:
    lookup = PromptLookup()
    lookup.propose(first, most)
    assert lookup.propose([*first, *more], most) == _searched([*first, *more], most)


def _searched(ids: Sequence[int], most: int) -> list[int]:
    for length in (3, 2):
        for at in range(len(ids) - 1, length - 1, -1):
            if ids[at - length : at] == ids[-length:]:
                return [*ids[at : at + most]]
    return []


@pytest.mark.parametrize(
    ("family", "settings"),
    [("llama", {}), ("gemma2", WINDOW), ("gpt2", {}), ("starcoder2", WINDOW)],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_answers_are_those_without_lookup_in_fewer_passes(
    family: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0
    forward = Streamer._forward

    def count(*arguments: Any) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return forward(*arguments)

    monkeypatch.setattr(Streamer, "_forward", count)
    found: dict[int, list[list[kdtool.TextPiece]]] = {}
    counted = {}
    for proposed in (0, 4):
        runtime = StreamingRuntime(tiny_model(family, **settings))
        runtime.proposed, passes = proposed, 0
        found[proposed] = [list(runtime.stream(request)) for request in REQUESTS]
        counted[proposed] = passes
    assert counted[4] < counted[0]
    for plain, looked_up in zip(*found.values(), strict=True):
        assert [_without_logprobs(piece) for piece in looked_up] == [_without_logprobs(piece) for piece in plain]
        for one, other in zip(plain, looked_up, strict=True):
            for expected, actual in zip(one.logprobs, other.logprobs, strict=True):
                assert actual.logprob == pytest.approx(expected.logprob, abs=1e-4)


def _without_logprobs(piece: kdtool.TextPiece) -> tuple[Any, ...]:
    return piece.text, piece.tokens_in, piece.tokens_out, piece.finish


def test_nothing_is_proposed_while_several_answers_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    runtime = StreamingRuntime(model)
    together: set[tuple[int, int]] = set()
    forward = Streamer._forward

    def record(streamer: Any, new: Any, read: Any, cache: Any, last: int = 1) -> torch.Tensor:
        together.add((len(new), last))
        return forward(streamer, new, read, cache, last)

    monkeypatch.setattr(Streamer, "_forward", record)
    first = runtime.stream(kdtool.Request("first", LOOP, 300))
    next(first)
    second = list(runtime.stream(kdtool.Request("second", LOOP, 20, temperature=0.5)))
    rest = list(first)
    assert second[-1].finish
    assert rest[-1].finish
    assert {last for rows, last in together if rows > 1} == {1}
    assert max(last for rows, last in together if rows == 1) == 5
