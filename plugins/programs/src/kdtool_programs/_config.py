"""Settings of evaluators that run programs."""

from __future__ import annotations

from typing import Literal

import kdtool
from pydantic import model_validator

__all__ = ["PassAtKConfig"]


class PassAtKConfig(kdtool.Config):
    """Settings of an evaluator that runs programs."""

    form: Literal["base", "chat"] = "base"
    """`base` has the model continue a program; `chat` uses its chat template, for models tuned to it."""
    samples: int = kdtool.Field(default=1, ge=1, le=10_000)
    """Answers per problem."""
    k: tuple[int, ...] = (1,)
    """Values of k to estimate pass@k for; none above `samples`."""
    temperature: float = kdtool.Field(default=0.0, ge=0, le=10)
    """Sampling temperature; 0 decodes greedily. Several samples need a temperature above 0."""
    maximum_tokens: int = kdtool.Field(default=512, ge=1, le=100_000)
    """Maximum tokens per answer."""
    problems: int | None = kdtool.Field(default=None, ge=1)
    """Maximum number of problems per measurement, selected by the hashes of their ids; null uses all, as published
    scores do."""
    seconds: float | None = kdtool.Field(default=None, gt=0, le=600)
    """Time limit per program, which fails if it exceeds it; null uses that of the benchmark's own harness."""
    seed: int = kdtool.Field(default=0, ge=0)
    """Seed for sampling at a temperature above 0."""
    workers: int = kdtool.Field(default=2, ge=1, le=256, json_schema_extra=kdtool.does_not_affect_results())
    """Programs run in parallel."""

    @model_validator(mode="after")
    def _can_be_estimated(self) -> PassAtKConfig:
        if not self.k or not all(1 <= k <= self.samples for k in self.k):
            raise ValueError(
                f"k is {', '.join(map(str, self.k)) or 'empty'}; expected numbers from 1 to samples ({self.samples}): lower "
                "k, or raise samples"
            )
        if len(set(self.k)) < len(self.k):
            raise ValueError(f"k contains a number twice: {', '.join(map(str, self.k))}; remove one")
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                "several samples at temperature 0 are identical; set temperature, for example to 0.2 or 0.8"
            )
        return self
