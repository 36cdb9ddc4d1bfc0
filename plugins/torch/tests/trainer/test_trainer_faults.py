"""Faults of plugins are reported with their name, before training where they can be seen there, and never train silently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import ListSource, make_run
from kdtool_torch import collate
from torch import Tensor
from trainer_models import (
    CE,
    KL,
    TinyModel,
    TinyTeacher,
    full_logits,
    kl_term,
    make_model,
    make_phase,
    make_rows,
    make_trainer,
    reports_of,
    train_terms,
)

CE_TERM = kdtool.LossTerm("losses.mine", "mine", 1.0)
ONE_ROW = ListSource([kdtool.Row("only", list(range(24)), [True] * 24, [0] * 24)])


def train_with(
    folder: Path, loss: kdtool.Component, term: kdtool.LossTerm = CE_TERM, source: Any = None, **settings: Any
) -> kdtool.Trained:
    """Train with a loss under the name `losses.mine`."""
    source = source or TinyTeacher(make_model(99))
    return train_terms(folder, [term], {"losses.mine": loss}, teacher=source, steps=6, **settings)


class Wrong(kdtool.TokenLoss):
    """Returns what a test tells it to, from the right values and the chunk."""

    def __init__(self, returned: Any) -> None:
        super().__init__(self.Config())
        self.returned = returned

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        right = CE(CE.Config()).kdtool_token_loss(chunk)
        values: Tensor = self.returned(right, chunk)
        return values


def edit_in_place(right: Tensor, chunk: kdtool.TokenChunk) -> Tensor:
    powers = chunk.student_logits.float().exp()
    return right + powers.mul_(2).sum(-1)


MISTAKES: dict[str, tuple[Any, str]] = {
    "mean": (lambda right, _: right.mean(), r"returned a tensor of shape \[\] .*expected.*shape \[\d+\]"),
    "detached": (lambda right, _: right.detach(), "do not depend on chunk.student_logits"),
    "gradient": (
        lambda right, _: (right - right.detach()).abs().sqrt() + right,
        "gradient of kdtool_token_loss is not",
    ),
    "in place": (edit_in_place, "losses.mine.* changed a tensor in place that its gradient needs .*x = x"),
    "chunk": (lambda right, _: right / len(right), "depend on how positions are cut into chunks"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_loss_that_returns_something_else_is_explained_by_name(tmp_path: Path, mistake: str) -> None:
    returned, message = MISTAKES[mistake]
    with pytest.raises(kdtool.PluginError, match=message) as caught:
        train_with(tmp_path, Wrong(returned))
    assert "mine" in "".join((str(caught.value), *getattr(caught.value, "__notes__", ())))
    assert not list((tmp_path / "checkpoints").glob("checkpoint-*"))


class WrongByHand(CE):
    """Gives by hand what a test tells it to, from the right values and gradient and the chunk."""

    def __init__(self, returned: Any) -> None:
        super().__init__(self.Config())
        self.returned = returned

    def kdtool_token_gradient(self, chunk: kdtool.TokenChunk) -> tuple[Tensor, Tensor]:
        gradient = chunk.student_logits.float().softmax(-1)
        gradient.scatter_add_(-1, chunk.labels[:, None], -torch.ones_like(gradient[:, :1]))
        answer: tuple[Tensor, Tensor] = self.returned(self.kdtool_token_loss(chunk), gradient, chunk)
        return answer


BY_HAND: dict[str, tuple[Any, str]] = {
    "negative": (lambda v, g, _: (v, -g), r"differs from autograd.*gradients differ by 2"),
    "values": (lambda v, g, _: (2 * v, g), r"differs from autograd.*gradients differ by \S+e-0\d, values by"),
    "shape": (lambda v, g, _: (v, g[:, :-1]), r"kdtool_token_gradient returned a tensor of shape.*expected"),
    "alone": (lambda v, g, _: g, "kdtool_token_gradient must return"),
    "in place": (lambda v, g, chunk: (v, chunk.student_logits.copy_(g)), "changed chunk.student_logits"),
}


@pytest.mark.parametrize("mistake", BY_HAND)
def test_a_wrong_gradient_by_hand_is_explained_by_name(tmp_path: Path, mistake: str) -> None:
    returned, message = BY_HAND[mistake]
    with pytest.raises(kdtool.PluginError, match=message) as caught:
        train_with(tmp_path, WrongByHand(returned))
    assert "mine" in str(caught.value) + str(getattr(caught.value, "__notes__", ""))


def test_a_nan_in_the_midst_stops_before_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    def later(right: Tensor, chunk: kdtool.TokenChunk) -> Tensor:
        return right * float("nan") if int(chunk.step) == 4 else right

    with pytest.raises(kdtool.PluginError, match=r"loss 'losses.mine' .*returned nan at step 4"):
        train_with(tmp_path, Wrong(later), checkpoint_every=2)
    assert [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_gradient_that_is_not_finite_names_its_loss(tmp_path: Path) -> None:
    def later(right: Tensor, chunk: kdtool.TokenChunk) -> Tensor:
        return right + (chunk.step >= 3) * (right - right.detach()).abs().sqrt()

    with pytest.raises(kdtool.PluginError, match=r"'losses.mine'.*gradient of (nan|inf|-inf) at step 3"):
        train_with(tmp_path, Wrong(lambda right, chunk: later(right, chunk) if int(chunk.step) >= 3 else right))


def test_a_student_that_runs_away_is_not_blamed_on_a_loss(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match="diverged at step"):
        train_with(tmp_path, CE(CE.Config()), learning_rate=1e30, gradient_clip=0.0, warmup=0.0)


def test_a_loss_whose_teacher_says_something_else_is_refused(tmp_path: Path) -> None:
    term, source = kl_term("losses.mine", needs=(frozenset({"logits"}),)), TinyTeacher(make_model(99), top_k=5)
    with pytest.raises(kdtool.PluginError, match=r"'losses.mine'.* needs logits of teacher, whose signal holds top-k"):
        train_with(tmp_path, KL(KL.Config()), term, source)


def test_sequence_losses_are_checked_too(tmp_path: Path) -> None:
    class Scalar(kdtool.SequenceLoss):
        def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
            return view.student.last.square().mean()  # type: ignore[return-value]

    class TooFew(kdtool.SequenceLoss):
        def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerSequence:
            return kdtool.PerSequence(view.student.last.square().mean(-1))

    with pytest.raises(kdtool.PluginError, match=r"must return PerToken or PerSequence, but .*Tensor\n.*'losses.mine'"):
        train_with(tmp_path, Scalar(Scalar.Config()))
    with pytest.raises(kdtool.PluginError, match=r"'losses.mine'.* shape \[1\]"):
        train_with(tmp_path, TooFew(TooFew.Config()))


def test_rows_without_labels_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match="no row of phase 'distil' has a labelled token"):
        train_with(tmp_path, CE(CE.Config()), rows=make_rows(3, masked=1.0))


class Half(kdtool.Weighting):
    """Weighs even positions 2, others 0; balances its term up from the second step on."""

    gradient_norms = True

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        return 2.0 * (chunk.positions % 2 == 0)

    def kdtool_balance(self, terms: Mapping[str, kdtool.TermReport], step: int, state: Any) -> Mapping[str, float]:
        assert all(stats.gradient_norm is not None for stats in terms.values())
        return dict.fromkeys(terms, 10.0 * step)


def test_weightings_weigh_and_balance_as_they_say(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"losses.mine": CE(CE.Config()), "half": Half(Half.Config())}, say=lambda _: None)
    phase = replace(make_phase(tmp_path, [CE_TERM], steps=3, rows=ONE_ROW), gradient_norms=True)
    student = make_model(1)
    expected = _mean_at_even_positions(student)
    make_trainer(batch=1, log_every=1, gradient_norms_every=3).kdtool_train(run, phase, student)
    reports = reports_of(tmp_path)
    assert [report["terms"]["mine"]["weight"] for report in reports] == [1.0, 20.0, 30.0]
    assert reports[0]["terms"]["mine"]["value"] == pytest.approx(expected, rel=1e-4)
    assert reports[0]["loss"] == pytest.approx(expected, rel=1e-4)
    assert reports[-1]["terms"]["mine"]["gradient_norm"]


class Constant(kdtool.Weighting):
    """Gives every token the same weight, from a position on."""

    def __init__(self, weight: float, begin: int = 0) -> None:
        super().__init__(None)
        self._weight, self._begin = weight, begin

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        return self._weight * (chunk.positions >= self._begin)


def train_weighed(tmp_path: Path, weighting: kdtool.Weighting) -> None:
    components = {"losses.mine": CE(CE.Config()), "same": weighting}
    train_terms(tmp_path, [CE_TERM], components, steps=1, rows=ONE_ROW, batch=1, loss_chunk_size=16)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-1.0, r"returned -1; expected: weights from 0"),
        (0.0, r"returned 0 at all 23 positions of a first row"),
        (float("nan"), r"returned nan at 16 of 16 positions"),
    ],
)
def test_weights_that_teach_nothing_or_the_opposite_are_refused(tmp_path: Path, weight: float, message: str) -> None:
    with pytest.raises(kdtool.PluginError, match=rf"'same'.*: kdtool_token_weight {message}"):
        train_weighed(tmp_path, Constant(weight))


def test_tokens_at_a_row_s_beginning_may_have_no_weight(tmp_path: Path) -> None:
    train_weighed(tmp_path, Constant(1.0, begin=20))
    with_columns = Constant(0.0)
    # A row whose columns hold nothing to learn may come first, but not be all.
    with_columns.columns = frozenset({"twice"})
    with pytest.raises(kdtool.UsageError, match="no token of phase 'distil' had a weight"):
        train_weighed(tmp_path / "other", with_columns)


def _mean_at_even_positions(student: TinyModel) -> float:
    batch = collate([ONE_ROW[0]])
    z = full_logits(student, student.model.states(batch)[-1])[0, :-1]
    losses = torch.nn.functional.cross_entropy(z, batch.labels[0, :-1], reduction="none")
    return float(losses[::2].mean().detach())


def test_a_term_that_does_nothing_is_noted(tmp_path: Path) -> None:
    terms = [kdtool.LossTerm("losses.ce", "ce", 1.0), kdtool.LossTerm("losses.faint", "faint", 0.001)]
    trained = train_terms(tmp_path, terms, {"losses.faint": CE(CE.Config())})
    assert len(trained.notes) == 1
    assert trained.notes[0].startswith("faint was 0.10%")
