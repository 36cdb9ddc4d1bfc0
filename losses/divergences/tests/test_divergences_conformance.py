"""The suite of losses on every divergence, also away from default settings."""

from __future__ import annotations

from typing import ClassVar

from kdtool.testing import TokenLossConformance
from kdtool_loss_divergences import ForwardKL, JensenShannon, ReverseKL


class TestForwardKL(TokenLossConformance):
    component = ForwardKL
    entry_point = "forward-kl"


class TestSoftForwardKL(TokenLossConformance):
    component = ForwardKL
    entry_point = "forward-kl"
    settings: ClassVar = {"temperature": 3.0}


class TestReverseKL(TokenLossConformance):
    component = ReverseKL
    entry_point = "reverse-kl"
    settings: ClassVar = {"temperature": 0.5}


class TestJensenShannon(TokenLossConformance):
    component = JensenShannon
    entry_point = "jsd"
    settings: ClassVar = {"temperature": 2.0, "beta": 0.1}
