"""Tests for losses of both forms."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from typing import ClassVar, get_args

import pytest
from kdtool import Loss, SignalKind
from kdtool._contract.signals import alternatives

from kdtool_testing.component import ComponentConformance

__all__ = ["LossConformance"]


class LossConformance(ComponentConformance):
    """The attributes that a loss declares are possible."""

    kind: ClassVar[str] = "loss"
    _form: ClassVar[type[Loss]]
    """The class that a loss of this suite extends."""

    def test_it_extends_the_class_of_its_form(self) -> None:
        assert issubclass(self.component, self._form)

    def test_what_it_declares_is_possible(self) -> None:
        loss = self.build()
        for alternative in alternatives(loss.needs):
            assert alternative
            assert alternative <= frozenset(get_args(SignalKind))
        assert loss.temperature > 0
        assert loss.temperature_power in (0, 1, 2)
        compares = loss.needs or loss.forward_passes == 2
        assert compares or not (loss.divergence or loss.temperature_power), (
            "without a teacher there is nothing to soften"
        )

    def test_a_weight_means_the_same_at_every_temperature(self) -> None:
        """For losses that soften distributions and have a temperature setting."""
        power = self.build().temperature_power
        if power and "temperature" in self.component.Config.model_fields:
            low, high = (self._slopes(temperature) for temperature in (2.0, 4.0))
            expected = [slope / 2**power for slope in low]
            assert high == pytest.approx(expected, rel=0.2), (
                f"its gradient does not shrink with T to the power of {power}"
            )

    def _slopes(self, temperature: float) -> list[float]:
        """Return norms of gradients at this temperature, for a student and a teacher that hardly differ."""
        raise NotImplementedError
