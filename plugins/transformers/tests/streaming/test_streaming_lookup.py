"""Prompt lookup: answers against those without it, and passes that it saves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersRuntime
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
        runtime = TransformersRuntime(tiny_model(family, **settings))
        runtime.proposed, passes = proposed, 0
        found[proposed] = [list(runtime.stream(request)) for request in REQUESTS]
        counted[proposed] = passes
    assert counted[4] < counted[0]
    for plain, looked_up in zip(*found.values(), strict=True):
        bare = [[replace(piece, logprobs=()) for piece in pieces] for pieces in (plain, looked_up)]
        assert bare[0] == bare[1]
        for one, other in zip(plain, looked_up, strict=True):
            for expected, actual in zip(one.logprobs, other.logprobs, strict=True):
                assert actual.logprob == pytest.approx(expected.logprob, abs=1e-4)


def test_nothing_is_proposed_while_several_answers_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    runtime = TransformersRuntime(model)
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
