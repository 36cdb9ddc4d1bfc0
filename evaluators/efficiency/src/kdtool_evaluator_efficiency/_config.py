"""Amounts to time, and prices."""

from __future__ import annotations

import kdtool

__all__ = ["BreakEven", "EfficiencyConfig"]


class BreakEven(kdtool.Config):
    """Prices in one currency, to compute the break-even point of a model."""

    api_price: float = kdtool.Field(gt=0)
    """Price of a million generated tokens from an API."""
    machine_price: float = kdtool.Field(ge=0)
    """Cost of an hour of this machine while it generates: its rent, or its power and wear."""
    training_cost: float = kdtool.Field(ge=0)
    """Cost of making the student. A run's report lists the hours it took."""

    def tokens(self, speed: float) -> float | None:
        """Return the generated tokens after which your own model has cost less than the API; None if it never does.

        training_cost / (api_price / 1,000,000 - machine_price / 3,600 / speed)

        Args:
            speed: tokens per second that this machine generates.
        """
        saved = self.api_price / 1e6 - self.machine_price / 3600 / speed
        return self.training_cost / saved if saved > 0 else None


class EfficiencyConfig(kdtool.Config):
    """Amounts to time, and prices."""

    turns: int = kdtool.Field(default=5, ge=1, le=1000)
    """Timed turns of each subject; the median is reported, with the least and the most as its bounds."""
    prompt: int = kdtool.Field(default=128, ge=1, le=100_000)
    """Tokens of the prompt; half of a model's context at most."""
    generated: int = kdtool.Field(default=32, ge=2, le=100_000)
    """Tokens generated after the prompt, one at a time, greedily; fewer if a model's context ends before."""
    seconds: float = kdtool.Field(default=2.0, gt=0, le=3600)
    """Longest time that a turn generates, even if fewer tokens were generated."""
    context: int | None = kdtool.Field(default=4096, ge=16, le=10_000_000)
    """Tokens read before resident memory is measured; fewer if a model's context ends before. null leaves that out."""
    break_even: BreakEven | None = None
    """Prices, to report the tokens after which a student has cost less than an API; null leaves that out."""
