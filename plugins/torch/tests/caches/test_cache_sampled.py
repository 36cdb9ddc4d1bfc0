"""The caches of a few tokens a position: their suites, and what is kept of real distributions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import kdtool
import pytest
import torch
from kdtool_testing import CacheConformance, ListSource, make_run
from kdtool_testing.cache import small_rows
from kdtool_torch import collate, numerics
from kdtool_torch.caches import Sampled, TopK
from kdtool_torch.caches import tokens as tokens_module
from kdtool_torch.caches.tokens import SampledTargets

VOCABULARY = 50
HEAD = kdtool.Head(torch.randn(53, 16, generator=torch.Generator().manual_seed(0)), VOCABULARY, scale=0.5)
SPARSE = kdtool.SignalRequest(frozenset({"sampled"}))
LOGITS: frozenset[kdtool.SignalKind] = frozenset({"logits"})


class TestSystematic(CacheConformance):
    component = Sampled
    entry_point = "sampled"
    settings: ClassVar = {"rows_per_shard": 4, "batch": 2, "samples": 8}
    wants = SPARSE


class TestIndependentAlternatives(CacheConformance):
    component = Sampled
    entry_point = "sampled"
    settings: ClassVar = {"rows_per_shard": 3, "samples": 300, "design": "independent", "alternatives": 3, "seed": 5}
    wants = kdtool.SignalRequest(frozenset({"sampled"}), temperature=2.0)


class TestTopK(CacheConformance):
    component = TopK
    entry_point = "top-k"
    settings: ClassVar = {"rows_per_shard": 4, "batch": 2, "k": 5}
    wants = kdtool.SignalRequest(frozenset({"top-k"}))


class Teacher:
    """Logits that follow from the tokens alone."""

    fingerprint = "t1"

    def __init__(self, want: kdtool.SignalRequest) -> None:
        self.want = want

    def states(self, batch: kdtool.Batch) -> torch.Tensor:
        kept = batch.labels != -100
        return torch.stack([(batch.input_ids * 0.37 + h).sin() for h in range(16)], -1)[kept]

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
        return kdtool.Signal(self.fingerprint, kdtool.LazyLogits(self.states(batch), HEAD))


def rows() -> list[kdtool.Row]:
    return small_rows()[:6]


def recalled(
    cache: Sampled | TopK, folder: Path, want: kdtool.SignalRequest
) -> tuple[kdtool.SparseTokens, torch.Tensor]:
    """Record, recall; return the tokens [N, K] and the teacher's own probabilities [N, V] at the temperature wanted."""
    folder.mkdir()
    teacher = Teacher(cache.records(want, LOGITS))
    cache.kdtool_record(make_run(folder), ListSource(rows()), teacher, folder)
    batch = collate(rows())
    signal = cache.kdtool_recall(batch, want, folder)
    assert signal.sparse is not None
    return signal.sparse, (HEAD.logits(teacher.states(batch)) / want.temperature).softmax(-1)


def spread(tokens: kdtool.SparseTokens) -> torch.Tensor:
    """Return the tokens' weights over the vocabulary, [N, V]."""
    whole = torch.zeros(len(tokens.ids), VOCABULARY)
    return whole.scatter_add_(1, tokens.ids.long().clamp(min=0), tokens.weights)


def test_draws_are_the_teacher_s_probabilities_rounded_up_or_down(tmp_path: Path) -> None:
    want = kdtool.SignalRequest(frozenset({"sampled"}), temperature=2.0)
    tokens, probabilities = recalled(Sampled(Sampled.Config(samples=16)), tmp_path / "s", want)
    assert (tokens.form, tokens.temperature, tokens.ids.dtype) == ("sampled", 2.0, torch.int32)
    assert ((tokens.ids >= 0) == (tokens.weights > 0)).all()
    torch.testing.assert_close(tokens.weights.sum(1), torch.ones(len(tokens.ids)))
    assert ((spread(tokens) - probabilities).abs() * 16 < 1 + 1e-4).all()


def test_independent_draws_are_right_on_average(tmp_path: Path) -> None:
    tokens, probabilities = recalled(
        Sampled(Sampled.Config(samples=1000, design="independent")), tmp_path / "s", SPARSE
    )
    deviation = (spread(tokens) - probabilities) / (probabilities * (1 - probabilities) / 1000).sqrt()
    assert deviation.abs().max() < 5
    assert float(deviation.square().mean()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(("k", "away"), [(7, 3e-4), (4096, 1e-3)])
def test_top_k_keeps_the_likeliest_with_their_probabilities(tmp_path: Path, k: int, away: float) -> None:
    tokens, probabilities = recalled(TopK(TopK.Config(k=k)), tmp_path / "s", kdtool.SignalRequest(frozenset({"top-k"})))
    likeliest, ids = probabilities.topk(min(k, VOCABULARY))
    assert tokens.form == "top-k"
    assert [set(row) for row in tokens.ids.tolist()] == [set(row) for row in ids.tolist()]
    torch.testing.assert_close(tokens.weights.sort(1, descending=True).values, likeliest, rtol=away, atol=1e-6)
    assert (tokens.weights.sum(1) <= 1 + 1e-6).all()


def drawn_at(cache: Sampled, folder: Path, turns: tuple[int, ...]) -> torch.Tensor:
    """Return the recalled weights over the vocabulary of all rows, each at its turn."""
    signal = cache.kdtool_recall(replace(collate(rows()), turns=turns), SPARSE, folder)
    assert signal.sparse is not None
    return spread(signal.sparse)


def test_each_turn_takes_the_next_of_the_independent_draws(tmp_path: Path) -> None:
    """Their mean comes to the teacher's probabilities as that of so many samples; with one set all turns are alike."""
    cache = Sampled(Sampled.Config(samples=4, alternatives=48))
    first, probabilities = recalled(cache, tmp_path / "many", SPARSE)
    each = torch.stack([drawn_at(cache, tmp_path / "many", (turn,) * 6) for turn in range(48)])
    assert each[0].equal(spread(first)), "without turns it is the first"
    assert each[7].equal(drawn_at(cache, tmp_path / "many", (7 + 48,) * 6))
    assert len({tuple(one.flatten().tolist()) for one in each}) == 48
    deviation = (each.mean(0) - probabilities) / (probabilities * (1 - probabilities) / 48 / 4).sqrt()
    assert deviation[probabilities > 0.03].abs().max() < 5, "rarer tokens are drawn a few times at most"
    mixed, counts = drawn_at(cache, tmp_path / "many", (0, 1, 2, 3, 4, 5)), (collate(rows()).labels != -100).sum(1)
    row = torch.arange(6).repeat_interleave(counts)
    assert mixed.equal(each[row, torch.arange(len(row))]), "each row has a turn of its own"
    alone = Sampled(Sampled.Config(samples=4))
    recalled(alone, tmp_path / "one", SPARSE)
    assert drawn_at(alone, tmp_path / "one", (5,) * 6).equal(each[0]), (
        "the first set is the same however many there are"
    )


def test_another_seed_draws_anew(tmp_path: Path) -> None:
    found = {}
    for seed, name in ((0, "a"), (1, "b"), (0, "again")):
        found[name] = spread(recalled(Sampled(Sampled.Config(samples=4, seed=seed)), tmp_path / name, SPARSE)[0])
    assert found["a"].equal(found["again"])
    assert not found["a"].equal(found["b"])


def test_the_likeliest_tokens_that_a_teacher_names_are_recorded(tmp_path: Path) -> None:
    class Naming(Teacher):
        """Names five tokens, and no sixth."""

        def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
            weights, ids = HEAD.logits(self.states(batch)).softmax(-1).topk(5)
            pad = torch.nn.functional.pad
            told = kdtool.SparseTokens(pad(ids.int(), (0, 1), value=-1), pad(weights, (0, 1)), "top-k", 1.0)
            return kdtool.Signal(self.fingerprint, sparse=told)

    want = kdtool.SignalRequest(frozenset({"top-k"}))
    for k in (3, 100):
        cache, folder = TopK(TopK.Config(k=k)), tmp_path / str(k)
        asked = cache.records(want, frozenset({"top-k", "text"}))
        assert asked.kinds == {"top-k"}
        folder.mkdir()
        assert cache.kdtool_record(make_run(folder, say=lambda _: None), ListSource(rows()), Naming(asked), folder) == 6
        told, found = (
            Naming(asked).signal(collate(rows())).sparse,
            cache.kdtool_recall(collate(rows()), want, folder).sparse,
        )
        assert told is not None
        assert found is not None
        kept = spread(told).topk(min(k, 5))
        expected = torch.zeros_like(spread(told)).scatter_(1, kept.indices, kept.values)
        torch.testing.assert_close(spread(found), expected, rtol=3e-4, atol=0)
    assert cache.records(want, frozenset({"top-k", "logits"})).kinds == {"logits"}
    with pytest.raises(kdtool.PluginError, match="asked for top-k tokens"):
        cache.kdtool_record(make_run(tmp_path), ListSource(rows()), Teacher(asked), tmp_path)


def test_files_do_not_depend_on_the_size_of_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Sampled(Sampled.Config(samples=8, alternatives=2))
    teacher = Teacher(cache.records(SPARSE, frozenset({"logits"})))
    files = []
    for positions in (1, 7, 10_000):
        folder = tmp_path / str(positions)
        folder.mkdir()
        monkeypatch.setattr(tokens_module, "_CPU_CHUNK", positions * 8 * 50)
        cache.kdtool_record(make_run(folder), ListSource(rows()), teacher, folder)
        files.append({path.name: path.read_bytes() for path in folder.glob("*.safetensors")})
    assert files[0] == files[1] == files[2]


def test_probabilities_come_from_unrounded_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    head = kdtool.Head(torch.randn(64, 32).bfloat16(), 61)
    states = torch.randn(40, 32).bfloat16()
    exact = kdtool.Head(head.weight.float(), 61).logits(states)
    monkeypatch.setattr(numerics, "returns_float32", lambda _device, dtype: dtype == torch.bfloat16)
    monkeypatch.setattr(numerics, "product_in_float32", lambda a, b, _out: a.float() @ b.float())
    ((_, found),) = SampledTargets(1.0, 4, systematic=True)._probabilities(states, head)
    torch.testing.assert_close(found, exact.softmax(-1))
