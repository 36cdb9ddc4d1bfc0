"""How programs are asked for and judged."""

from __future__ import annotations

from typing import Literal

import kdtool
from pydantic import model_validator

__all__ = ["PassAtKConfig"]


class PassAtKConfig(kdtool.Config):
    """How programs are asked for and judged."""

    form: Literal["base", "chat"] = "base"
    """`base` has the model continue a program; `chat` asks by its chat template, for models that were tuned to it."""
    samples: int = kdtool.Field(default=1, ge=1, le=10_000)
    """Answers to each problem."""
    k: tuple[int, ...] = (1,)
    """Which pass@k are estimated; none above `samples`."""
    temperature: float = kdtool.Field(default=0.0, ge=0, le=10)
    """0 takes the likeliest token each time; several samples need more."""
    maximum_tokens: int = kdtool.Field(default=512, ge=1, le=100_000)
    """An answer ends after so many tokens."""
    problems: int | None = kdtool.Field(default=None, ge=1)
    """At most so many problems for each measurement, chosen by the hashes of their ids; null takes all, as published
    scores do."""
    seconds: float | None = kdtool.Field(default=None, gt=0, le=600)
    """A program that runs longer has failed; null takes what the benchmark's own harness allows."""
    seed: int = kdtool.Field(default=0, ge=0)
    """Decides what is drawn at a temperature above 0."""
    workers: int = kdtool.Field(default=2, ge=1, le=256, json_schema_extra=kdtool.does_not_affect_results())
    """Programs that run at once."""

    @model_validator(mode="after")
    def _can_be_estimated(self) -> PassAtKConfig:
        if not self.k or not all(1 <= k <= self.samples for k in self.k):
            raise ValueError(f"k holds numbers from 1 to samples ({self.samples}): fewer samples say nothing of pass@k")
        if len(set(self.k)) < len(self.k):
            raise ValueError(f"k names a number twice: {', '.join(map(str, self.k))}")
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                "several samples at temperature 0 are all the same; set temperature, 0.2 or 0.8 for example"
            )
        return self
