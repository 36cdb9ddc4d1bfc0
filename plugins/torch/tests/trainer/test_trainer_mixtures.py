"""Mixtures of teachers: gradients against plain probabilities in float64, what a mixture is when it is none, refusals."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing import make_run
from kdtool_torch.inputs import MicroBatch
from kdtool_torch.objective import Objective, Sizes
from kdtool_torch.terms import ChunkLoss, bind_terms, mixed_logits
from torch import Tensor
from trainer_models import (
    KL,
    VOCABULARY,
    ByEntropy,
    TinyModel,
    TinyTeacher,
    first_batch,
    first_gradients,
    make_model,
    make_phase,
    make_rows,
    make_trainer,
    mixture,
    reports_of,
    worst_difference,
)

SHARES = {"one": 0.7, "other": 0.3}


class _Soft(KL):
    """A divergence at a temperature of its own, given the teacher's and the student's log-probabilities."""

    class Config(kdtool.Config):
        """Settings."""

        at: float = 1.0

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.temperature = config.at

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        assert isinstance(chunk.teacher, kdtool.DenseTokens)
        p, q = ((z.float() / chunk.temperature).log_softmax(-1) for z in (chunk.teacher.logits, chunk.student_logits))
        return self.between(p, q)

    def between(self, p: Tensor, q: Tensor) -> Tensor:
        return (p.exp() * (p - q)).sum(-1)


class _Reverse(_Soft):
    def between(self, p: Tensor, q: Tensor) -> Tensor:
        return (q.exp() * (q - p)).sum(-1)


def _plain(kind: type[_Soft], p: Tensor, q: Tensor) -> Tensor:
    """The same from probabilities, as the books write it."""
    return (p * (p / q).log()).sum() if kind is _Soft else (q * (q / p).log()).sum()


def term(at: float, shares: Mapping[str, float] = SHARES, **changes: Any) -> kdtool.LossTerm:
    logits = (frozenset[kdtool.SignalKind]({"logits"}), frozenset[kdtool.SignalKind]({"sampled"}))
    mixed = kdtool.LossTerm("losses.soft", "soft", 0.7, at, at**2, None, logits, divergence=True, mixture=shares)
    return replace(mixed, **changes)


def gradients(
    folder: Path, loss: kdtool.Loss, terms: Sequence[kdtool.LossTerm], sources: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Train one step; return the gradients and what was reported of the loss."""
    student = make_model(1)
    phase = make_phase(folder, terms, sources, steps=1)
    run = make_run(folder / "run", {**mixture(), "losses.soft": loss})
    trainer = make_trainer(batch=4, head_chunk_size=11, loss_chunk_size=5, gradient_clip=0.0, log_every=1)
    with first_gradients(student.model) as found:
        trainer.kdtool_train(run, phase, student)
    return found, reports_of(folder)[0]["terms"]["soft"]


def sources(**teachers: Any) -> dict[str, TinyTeacher]:
    return {"one": TinyTeacher(make_model(99)), "other": TinyTeacher(make_model(98)), **teachers}


def oracle(kind: type[_Soft], at: float) -> dict[str, Tensor]:
    """Return the gradients by the student's weights, of probabilities mixed in float64, all positions at once."""
    student, *teachers = (copy.deepcopy(make_model(seed)) for seed in (1, 99, 98))
    for model in (student, *teachers):
        model.model.double()
    batch = first_batch()
    asked = batch.labels != -100

    def probabilities(model: TinyModel) -> Tensor:
        logits = model.model.states(batch)[-1][asked] @ model.model.head.weight[:VOCABULARY].T
        powers: Tensor = (logits / at - (logits / at).amax(-1, keepdim=True)).exp()
        return powers / powers.sum(-1, keepdim=True)

    p = sum(share * probabilities(teacher) for share, teacher in zip(SHARES.values(), teachers, strict=True))
    assert isinstance(p, Tensor)
    value = _plain(kind, p.detach(), probabilities(student)) / asked.sum()
    (0.7 * at**2 * value).backward()  # type: ignore[no-untyped-call]
    return {name: weight.grad for name, weight in student.model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("at", [1.0, 2.0])
@pytest.mark.parametrize("kind", [_Soft, _Reverse], ids=["forward", "reverse"])
def test_gradients_are_those_of_mixed_probabilities(tmp_path: Path, kind: type[_Soft], at: float) -> None:
    loss = kind(kind.Config(at=at))
    found, _ = gradients(tmp_path, loss, [term(at)], sources())
    assert worst_difference(found, oracle(kind, at)) < 1e-5
    other, _ = gradients(tmp_path / "one", loss, [term(at, {}, teacher="one")], sources())
    assert worst_difference(other, oracle(kind, at)) > 1e-2, "the test can fail"


@given(
    st.lists(st.lists(st.floats(-30, 30), min_size=4, max_size=4), min_size=1, max_size=4),
    st.sampled_from([0.3, 1.0, 2.0]),
    st.data(),
)
def test_logits_of_a_mixture_soften_to_its_probabilities(rows: list[list[float]], at: float, data: Any) -> None:
    weights = [data.draw(st.floats(1e-3, 1)) for _ in rows]
    shares = [weight / sum(weights) for weight in weights]
    logits = [torch.tensor([row], dtype=torch.float64) for row in rows]
    expected = sum(share * (own / at).softmax(-1) for share, own in zip(shares, logits, strict=True))
    torch.testing.assert_close((mixed_logits(logits, shares, at) / at).softmax(-1), expected, rtol=1e-9, atol=1e-12)


def test_half_precision_is_mixed_in_float32_and_what_all_exclude_stays_finite_or_excluded() -> None:
    half = [torch.tensor([[0.0, -300.0, 1.0]], dtype=dtype) for dtype in (torch.bfloat16, torch.float16)]
    mixed = mixed_logits(half, [0.5, 0.5], 2.0)
    assert mixed.dtype == torch.float32
    assert mixed[0, 1].item() == pytest.approx(-300 + mixed[0, 0].item(), abs=1)
    gone = [torch.tensor([[0.0, -torch.inf]]), torch.tensor([[0.0, -torch.inf]])]
    assert mixed_logits(gone, [0.5, 0.5], 1.0).tolist() == [[0.0, -torch.inf]]


class Drawing(TinyTeacher):
    """Tells of every token what share of endlessly many samples it would be: what sampled tokens estimate."""

    form = "sampled"
    at = 1.0

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
        with torch.inference_mode():
            last = self.model.backbone(batch, self.want).last
            weights = ((last @ self.model.head.weight[:VOCABULARY].T) / self.at).softmax(-1)
        ids = torch.arange(VOCABULARY, dtype=torch.int32).expand(len(weights), -1).clone()
        form: Any = self.form
        return kdtool.Signal("tiny", sparse=kdtool.SparseTokens(ids, weights, form, self.at))


class Estimated(_Soft):
    """Forward KL from drawn tokens."""

    divergence = False

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        assert isinstance(chunk.teacher, kdtool.SparseTokens)
        torch.testing.assert_close(chunk.teacher.weights.sum(-1), torch.ones(len(chunk.labels)))
        q = chunk.student_logits.float().log_softmax(-1)
        return -(chunk.teacher.weights * q.gather(-1, chunk.teacher.ids.long())).sum(-1)


def test_drawn_tokens_are_joined_with_their_shares(tmp_path: Path) -> None:
    drawn = {"one": Drawing(make_model(99)), "other": Drawing(make_model(98))}
    sampled = term(1.0, divergence=False, needs=(frozenset({"sampled"}),))
    found, _ = gradients(tmp_path, Estimated(Estimated.Config()), [sampled], drawn)
    assert worst_difference(found, oracle(_Soft, 1.0)) < 1e-5


def test_tokens_that_were_taken_at_another_temperature_are_refused_before_the_first_step(tmp_path: Path) -> None:
    drawn, calls = Drawing(make_model(99)), Estimated(Estimated.Config())
    sampled = term(2.0, divergence=False, needs=(frozenset({"sampled"}),))
    with pytest.raises(kdtool.UsageError, match=r"works at temperature 2, but the tokens of one were taken at 1"):
        gradients(tmp_path, calls, [sampled], {"one": drawn, "other": drawn})


def test_each_teacher_s_tokens_are_looked_at(tmp_path: Path) -> None:
    several = sources(other=TinyTeacher(make_model(98), vocabulary=50))
    with pytest.raises(
        kdtool.UsageError, match="other has logits of 50 tokens, but the student's are compared over 61"
    ):
        gradients(tmp_path, _Soft(_Soft.Config()), [term(1.0)], several)


def module_of(folder: Path) -> tuple[Objective, kdtool.Batch, dict[str, kdtool.Signal]]:
    student, batch = make_model(1), first_batch()
    told = {name: source.signal(batch) for name, source in sources().items()}
    run = make_run(folder, {**mixture(), "losses.soft": _Soft(_Soft.Config(at=2.0))})
    phase = kdtool.Phase("p", 1, (term(2.0),), make_rows(12), {}, folder)
    sizes = Sizes(torch.float32, head_chunk_size=11, loss_chunk_size=5, rows_per_step=4)
    module = Objective(run, phase, student, sizes).bind(bind_terms(run, phase, told))
    module.set_step(1, 0.0, [0.7 * 4])
    return module, batch, told


def test_weightings_see_a_mixture_at_temperature_1_whatever_the_loss_softens(tmp_path: Path) -> None:
    module, batch, told = module_of(tmp_path)
    weighed = ChunkLoss(module.terms, [ByEntropy(ByEntropy.Config()).kdtool_token_weight])
    chunk = replace(
        module.head_work(MicroBatch(batch, told), ()).chunk(slice(0, 16)), logits=(torch.zeros(16, VOCABULARY),)
    )
    shares = zip(SHARES.values(), chunk.teachers[0], strict=True)
    p = torch.stack([share * teacher.double().softmax(-1) for share, teacher in shares]).sum(0)
    seen = weighed.seen_by_weightings(chunk).teacher
    assert isinstance(seen, kdtool.DenseTokens)
    torch.testing.assert_close(seen.logits.softmax(-1).double(), p, rtol=1e-4, atol=1e-7)
    _, values = weighed.of_term(0, chunk)
    _, plain = module.chunk_loss.of_term(0, chunk)
    torch.testing.assert_close((values / plain).double(), -(p * p.log()).sum(-1), rtol=1e-4, atol=1e-6)
