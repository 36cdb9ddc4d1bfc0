"""Speculative answers against the target's own: tokens, ends, distributions, what is refused, and the models of a run."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from itertools import pairwise
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import (
    DraftedModels,
    SpeculativeRuntime,
    TransformersModel,
    TransformersRuntime,
    TransformersTokenizer,
    byte_tokenizer,
)
from kdtool_transformers.streaming.speculative import keep_samples

REQUESTS = [
    kdtool.Request("plain", "def f", 40),
    kdtool.Request("long prompt", "for number in range(10):\n" * 14, 20),
    kdtool.Request("stops", "a", 50, stop=("b", "é", " ")),
    kdtool.Request("one", "print(", 1),
    kdtool.Request("context", "x = 1\n" * 83, 40),
    kdtool.Request("too long", "x = 1\n" * 90, 40),
]


def _near(model: TransformersModel, noise: float) -> TransformersModel:
    """Return a model that often, but not always, agrees."""
    weights, generator = copy.deepcopy(model.model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.add_(noise * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return TransformersModel(weights, model.tokenizer)


def _pair(family: str = "llama", noise: float = 0.05, **settings: Any) -> tuple[TransformersRuntime, TransformersModel]:
    model = tiny_model(family, **settings)
    return TransformersRuntime(model), _near(model, noise)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "starcoder2"])
@pytest.mark.parametrize("tokens", [1, 4])
def test_greedy_answers_are_the_targets(family: str, tokens: int) -> None:
    target, draft = _pair(family, **({"sliding_window": 20} if family in {"gemma2", "starcoder2"} else {}))
    speculative = SpeculativeRuntime(target, TransformersRuntime(draft), tokens)
    drafted = 0
    for request in REQUESTS:
        (found,) = speculative.answer([request])
        assert [found] == list(target.answer([request]))
        assert speculative.last.tokens >= found.tokens_out
        drafted += speculative.last.tokens - speculative.last.steps
    assert drafted > 0


def test_a_draft_that_agrees_fills_each_step_and_one_that_never_does_adds_nothing() -> None:
    target, _ = _pair()
    request = kdtool.Request("r", "def f", 40)
    same = SpeculativeRuntime(target, TransformersRuntime(_near(tiny_model(), 0.0)), tokens=3)
    list(same.answer([request]))
    assert (same.last.tokens, same.last.steps) == (40, 10)
    assert same.last.tokens_per_step == 4
    contrary = tiny_model()
    with torch.no_grad():
        contrary.model.model.norm.weight.neg_()
    opposed = SpeculativeRuntime(target, TransformersRuntime(contrary), tokens=3)
    assert list(opposed.answer([request])) == list(target.answer([request]))
    assert opposed.last.tokens_per_step == 1


def test_an_end_token_ends_the_answer_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = _pair(noise=0.0)
    request = kdtool.Request("r", "def f", 30)
    (ids,) = draft.generate([draft.tokenizer.encode("def f")], [30], 0.0, [0])
    monkeypatch.setattr(TransformersTokenizer, "end_ids", (ids[5],))
    speculative = SpeculativeRuntime(target, TransformersRuntime(draft), 8)
    (found,) = speculative.answer([request])
    assert [found] == list(target.answer([request]))
    assert (found.finish, found.tokens_out) == ("stop", ids.index(ids[5]))


def test_rows_that_pad_the_embedding_are_never_proposed_nor_chosen() -> None:
    target, draft = (TransformersRuntime(tiny_model(vocabulary=320, seed=seed)) for seed in (0, 0))
    for runtime in (target, draft):
        assert runtime.model is not None
        with torch.no_grad():
            runtime.model.head.weight[257:] *= 100
    speculative = SpeculativeRuntime(target, draft)
    request = kdtool.Request("r", "def f", 24)
    assert list(speculative.answer([request])) == list(target.answer([request]))
    list(speculative.answer([kdtool.Request("s", "def f", 24, temperature=1.0)]))


def test_a_draft_with_a_short_context_stops_proposing() -> None:
    target, _ = _pair()
    short = tiny_model("gpt2", max_position_embeddings=32)
    speculative = SpeculativeRuntime(
        target, TransformersRuntime(TransformersModel(short.model, byte_tokenizer("llama")))
    )
    for request in REQUESTS[:2]:
        assert list(speculative.answer([request])) == list(target.answer([request]))


def test_keys_and_values_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = _pair()
    speculative = SpeculativeRuntime(target, TransformersRuntime(draft), 4)
    read: Counter[str] = Counter()
    assert target.model is not None
    for name, model in (("target", target.model.model), ("draft", draft.model)):
        model.register_forward_pre_hook(
            lambda _, __, given, name=name: read.update({name: given["input_ids"].shape[1]}), with_kwargs=True
        )
    list(speculative.answer([kdtool.Request("r", "def f" * 20, 40)]))
    proposed = 4 * speculative.last.steps
    assert read["target"] <= 100 + speculative.last.steps + proposed
    assert read["draft"] <= 100 + 40 + proposed


def test_pieces_come_with_each_step_and_closing_ends_the_answer() -> None:
    target, draft = _pair()
    speculative = SpeculativeRuntime(target, TransformersRuntime(draft))
    pieces = list(speculative.stream(kdtool.Request("r", "x = 1\n" * 60, 10, logprobs=0)))
    counts = [piece.tokens_out for piece in pieces]
    assert counts[:4] == [0] * 4
    assert all(0 < more - count <= 5 for count, more in pairwise(counts[3:]))
    assert (counts[-1], len(pieces)) == (10, 4 + speculative.last.steps)
    assert [len(piece.logprobs) for piece in pieces[4:]] == [more - count for count, more in pairwise(counts[3:])]
    begun = speculative.stream(kdtool.Request("r", "def f", 200))
    next(begun)
    steps = speculative.last.steps
    begun.close()  # type: ignore[attr-defined]
    assert speculative.last.steps < 100 >= steps
    assert not [thread for thread in threading.enumerate() if thread.name == "kdtool-speculation"]


def test_an_error_reaches_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = _pair()
    speculative = SpeculativeRuntime(target, TransformersRuntime(draft))
    monkeypatch.setattr(draft.model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(speculative.stream(kdtool.Request("r", "def f", 20)))


def test_autocast_converts_weights_once_and_does_not_reach_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    target, draft = (TransformersRuntime(each, torch.bfloat16) for each in (model, _near(model, 0.0)))
    speculative = SpeculativeRuntime(target, draft)
    seen = set()
    cleared: list[int] = []
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: cleared.append(1))
    for _ in speculative.stream(kdtool.Request("r", "def f", 20)):
        seen.add((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
    assert seen == {(False, True)}
    assert len(cleared) <= 2


def test_log_probabilities_are_the_targets() -> None:
    target, draft = _pair()
    request = kdtool.Request("r", "x = ", 12, logprobs=2)
    speculative = SpeculativeRuntime(target, TransformersRuntime(draft))
    own, found = ([one for piece in each.stream(request) for one in piece.logprobs] for each in (target, speculative))
    assert [one.token for one in found] == [one.token for one in own]
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in own], abs=1e-4)


P = torch.tensor([[0.5, 0.2, 0.2, 0.1, 0.0], [0.1, 0.1, 0.1, 0.3, 0.4], [0.2, 0.2, 0.2, 0.2, 0.2]])
Q = torch.tensor([[0.1, 0.1, 0.2, 0.3, 0.3], [0.6, 0.1, 0.1, 0.1, 0.1]])


def test_drawn_tokens_have_the_targets_distribution() -> None:
    """Of the first two tokens, drawn with fixed seeds; a missing second token is drawn from P."""
    generator, counts, number = torch.Generator().manual_seed(7), torch.zeros(5, 5), 20_000
    for _ in range(number):
        drafted = [int(torch.multinomial(q, 1, generator=generator)) for q in Q]
        kept = keep_samples(drafted, list(Q), list(P), generator)
        second = kept[1] if len(kept) > 1 else int(torch.multinomial(P[1], 1, generator=generator))
        counts[kept[0], second] += 1
    expected = number * P[0][:, None] * P[1]
    found = (counts - expected).square() / expected  # where nothing is expected, a single draw makes it infinite
    statistic = float(found[(counts > 0) | (expected > 0)].sum())
    assert statistic < 43.8, "of 19 degrees of freedom at a level of 0.001: 20 cells can occur"


@pytest.mark.parametrize("cut", [{}, {"top_k": 3}, {"top_p": 0.7}])
def test_sampled_answers_have_the_targets_distribution(cut: dict[str, Any]) -> None:
    target, draft = _pair(noise=0.5, layers=1)
    speculative = SpeculativeRuntime(target, TransformersRuntime(draft), 2)
    seen = {True: Counter[str](), False: Counter[str]()}
    number = 400
    for seed in range(number):
        (found,) = speculative.answer([kdtool.Request("r", "a", 2, (), 0.5, seed, **cut)])
        seen[True][found.text[:1]] += 1
    own = [kdtool.Request(str(seed), "a", 2, (), 0.5, number + seed, **cut) for seed in range(number)]
    for found in target.answer(own):
        seen[False][found.text[:1]] += 1
    common = [text for text, count in (seen[True] + seen[False]).items() if count >= 10]
    found_counts, own_counts = ([seen[key][text] for text in common] for key in (True, False))
    # Two samples of one size: sum of (a - b)² / (a + b); its mean is the number of cells, its variance twice that.
    statistic = sum((a - b) ** 2 / (a + b) for a, b in zip(found_counts, own_counts, strict=True))
    assert statistic < len(common) + 4 * (2 * len(common)) ** 0.5


def test_what_cannot_be_drafted_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = _pair()
    with pytest.raises(kdtool.UsageError, match="draft of speculative decoding is not a model of transformers"):
        SpeculativeRuntime(target, _Foreign())
    other = tiny_model()
    other.tokenizer.inner.add_tokens(["<other>"])
    other.tokenizer = TransformersTokenizer(other.tokenizer.inner)
    with pytest.raises(kdtool.UsageError, match="draft's vocabulary of 258 tokens differs from the target's of 257"):
        SpeculativeRuntime(target, TransformersRuntime(other))
    monkeypatch.setattr(draft.model.config, "layer_types", ["linear_attention"] * 4, raising=False)
    with pytest.raises(kdtool.UsageError, match="keeps a state"):
        SpeculativeRuntime(target, TransformersRuntime(draft))


class _Foreign(kdtool.Runtime):
    def answer(self, requests: Any) -> Any:
        raise NotImplementedError


def test_both_models_are_counted_and_closed() -> None:
    target, draft = _pair()
    both = SpeculativeRuntime(target, TransformersRuntime(draft))
    assert both.memory() == 2 * target.memory()
    both.close()
    with pytest.raises(kdtool.UsageError, match="closed"):
        target.memory()
    with pytest.raises(kdtool.UsageError, match="closed"):
        both.memory()


class _Models(kdtool.Models):
    """A student and a teacher of transformers, and a server."""

    def __init__(self) -> None:
        self.subjects = {name: kdtool.Subject(name, "artifact") for name in ("student", "teacher", "server")}
        self.results = None
        self.server = _Foreign()

    def open(self, name: str) -> kdtool.Runtime:
        return self.server if name == "server" else TransformersRuntime(tiny_model())


def test_only_what_is_drafted_is_opened_with_the_draft() -> None:
    models = DraftedModels(_Models(), "student", ["student", "teacher", "server"])
    with models.open("teacher") as teacher, models.open("student") as student:
        assert isinstance(teacher, SpeculativeRuntime)
        assert isinstance(student, TransformersRuntime)
    with pytest.raises(kdtool.UsageError, match="is not a model of transformers"):
        models.open("server")
