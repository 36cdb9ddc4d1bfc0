"""The suite of losses on every divergence, also away from default settings."""

from __future__ import annotations

from typing import ClassVar

import pytest
from kdtool_loss_divergences import (
    AdaptiveKL,
    Contrastive,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
)
from kdtool_testing import TokenLossConformance


class TestForwardKL(TokenLossConformance):
    component = ForwardKL
    entry_point = "forward-kl"
    settings: ClassVar = {"temperature": 3.0}


class TestReverseKL(TokenLossConformance):
    component = ReverseKL
    entry_point = "reverse-kl"
    settings: ClassVar = {"temperature": 0.5}


class TestSupportedReverseKL(TokenLossConformance):
    component = ReverseKL
    entry_point = "reverse-kl"
    settings: ClassVar = {"support": {"student": 4}}


class TestJensenShannon(TokenLossConformance):
    component = JensenShannon
    entry_point = "jsd"
    settings: ClassVar = {"temperature": 2.0, "beta": 0.1}


class TestSkewKL(TokenLossConformance):
    component = SkewKL
    entry_point = "skew-kl"


class TestSkewReverseKL(TokenLossConformance):
    component = SkewReverseKL
    entry_point = "skew-reverse-kl"
    settings: ClassVar = {"temperature": 2.0, "alpha": 0.3}


class TestContrastive(TokenLossConformance):
    component = Contrastive
    entry_point = "contrastive"
    settings: ClassVar = {"temperature": 2.0, "alpha": 0.3}


class TestTotalVariation(TokenLossConformance):
    component = TotalVariation
    entry_point = "tvd"
    settings: ClassVar = {"temperature": 2.0}


class TestAdaptiveKL(TokenLossConformance):
    component = AdaptiveKL
    entry_point = "adaptive-kl"

    @pytest.mark.xfail(
        reason="the weight of the two KLs is a constant of the gradient, as in the authors' code", strict=True
    )
    def test_its_gradient_is_right(self) -> None:
        super().test_its_gradient_is_right()
