"""The suite of losses on all losses, one of them away from default settings."""

from __future__ import annotations

from typing import ClassVar

from kdtool_loss_across_tokenizers import ProjectedKL, SpanLikelihood, UniversalLogitDistillation
from kdtool_testing import SequenceLossConformance


class TestUniversalLogitDistillation(SequenceLossConformance):
    component = UniversalLogitDistillation
    entry_point = "uld"
    settings: ClassVar = {"temperature": 2.0}


class TestSpanLikelihood(SequenceLossConformance):
    component = SpanLikelihood
    entry_point = "span-likelihood"


class TestProjectedKL(SequenceLossConformance):
    component = ProjectedKL
    entry_point = "projected-kl"
