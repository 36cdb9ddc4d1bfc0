"""The suite of weightings on all balances, also away from default settings."""

from __future__ import annotations

from typing import ClassVar

from kdtool_testing import WeightingConformance
from kdtool_torch.weightings import GradNorm, OnMetric, Uncertainty


class TestUncertainty(WeightingConformance):
    component = Uncertainty
    entry_point = "uncertainty"


class TestFastUncertainty(WeightingConformance):
    component = Uncertainty
    entry_point = "uncertainty"
    settings: ClassVar = {"learning_rate": 1.0, "limit": 1.5}


class TestGradNorm(WeightingConformance):
    component = GradNorm
    entry_point = "gradnorm"


class TestEqualNorms(WeightingConformance):
    component = GradNorm
    entry_point = "gradnorm"
    settings: ClassVar = {"alpha": 0.0, "learning_rate": 1.0}


class TestOnMetric(WeightingConformance):
    component = OnMetric
    entry_point = "on-metric"
    settings: ClassVar = {"watch": "a", "below": 2.0, "change": "b", "smoothing": 0.5}


class TestOnMetricSlowly(WeightingConformance):
    component = OnMetric
    entry_point = "on-metric"
    settings: ClassVar = {"watch": "b", "above": 0.5, "change": "b", "factor": 3.0, "over": 4}
