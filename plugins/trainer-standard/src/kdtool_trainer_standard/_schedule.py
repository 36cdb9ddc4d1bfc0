"""The learning rate's course: warm-up, then cosine or straight line down to 10 % of the peak, or constant."""

from __future__ import annotations

import math

from kdtool_trainer_standard._config import StandardTrainerConfig

__all__ = ["learning_rate_factor"]


def learning_rate_factor(config: StandardTrainerConfig, step: int, steps: int) -> float:
    """Return the learning rate's fraction of its peak at a step, counted from 0."""
    warmup = max(1, round(config.warmup * steps)) if config.warmup else 0
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 0.1 + 0.9 * ((1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done)
