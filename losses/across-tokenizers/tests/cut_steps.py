"""A step of two tokenizers, and the losses that know them."""

from __future__ import annotations

from typing import Any

import kdtool
from cut_texts import TOKENIZERS, Document, probabilities
from kdtool_loss_across_tokenizers import ProjectedKL, SpanLikelihood, UniversalLogitDistillation

OWN = [
    [Document((0, 2, 3, 5, 8), ended=True), Document((0, 1, 4, 6), masked=frozenset({2}))],
    [Document((0, 4, 5, 7, 9, 11, 12), marked=frozenset({4}))],
]
OTHER = [
    [Document((0, 1, 3, 4, 5, 6, 8), ended=True), Document((0, 1, 2, 6))],
    [Document((0, 2, 5, 9, 10, 12), marked=frozenset({2}))],
]


def uld(**settings: Any) -> UniversalLogitDistillation:
    return UniversalLogitDistillation(UniversalLogitDistillation.Config(**settings))


def span_likelihood(**settings: Any) -> SpanLikelihood:
    loss = SpanLikelihood(SpanLikelihood.Config(**settings))
    loss.tokenizers = TOKENIZERS
    return loss


def projected_kl(**settings: Any) -> ProjectedKL:
    loss = ProjectedKL(ProjectedKL.Config(**settings))
    loss.tokenizers = TOKENIZERS
    return loss


def sides(view: kdtool.StepView, temperature: float = 1.0) -> tuple[list[list[float]], list[list[float]]]:
    assert view.head is not None
    assert view.teacher is not None
    assert view.teacher.lazy is not None
    own = probabilities(view.student.last.detach(), view.head, temperature)
    return own, probabilities(view.teacher.lazy.hidden, view.teacher.lazy.head, temperature)
