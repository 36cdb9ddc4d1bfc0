"""The suite of weightings on both balances, also away from default settings."""

from __future__ import annotations

from typing import ClassVar

from kdtool.testing import WeightingConformance
from kdtool_weighting_balance import GradNorm, Uncertainty


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
