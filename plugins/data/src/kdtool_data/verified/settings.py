"""Settings of `verified`."""

from __future__ import annotations

from typing import Literal

import kdtool
import pydantic


class VerifiedConfig(kdtool.Config):
    """Settings of `verified`."""

    ask: str = kdtool.Field(default="teacher", min_length=1)
    """The teacher that answers, by its name in the recipe: `teacher`, or `teachers.NAME`."""
    corpus: str = kdtool.Field(min_length=1)
    """The corpus of the recipe (`corpora.NAME`) with the problems: prompts with solutions and tests, such as those of
    `mbpp`. Only the split "train" is asked; validation and test pass through unchanged."""
    give: Literal["passing", "pairs"] = "passing"
    """`passing`: the prompt with each distinct answer that passed. `pairs`: preferences of a passed answer over a failed
    one."""
    samples: int = kdtool.Field(default=8, ge=1, le=10_000)
    """Answers requested per problem."""
    keep: int = kdtool.Field(default=4, ge=1, le=10_000)
    """Maximum number of examples per problem."""
    form: Literal["base", "chat"] = "base"
    """`base` has the model continue the prompt; `chat` uses its chat template and extracts the first block of code."""
    temperature: float = kdtool.Field(default=0.8, ge=0, le=10)
    """Sampling temperature; 0 decodes greedily. Several samples need a temperature above 0."""
    max_tokens: int = kdtool.Field(default=512, ge=1, le=1_048_576)
    """Maximum tokens per answer; answers cut off there are dropped."""
    limit: int | None = kdtool.Field(default=None, ge=1)
    """Ask only about the first N problems; null asks about all."""
    seconds: float = kdtool.Field(default=3.0, gt=0, le=600)
    """Time limit per program; a program that exceeds it fails."""

    @pydantic.model_validator(mode="after")
    def _can_give_that(self) -> VerifiedConfig:
        if self.samples > 1 and not self.temperature:
            raise ValueError("several samples at temperature 0 are identical: set temperature, for example to 0.8")
        if self.samples == 1 and self.give == "pairs":
            raise ValueError("a pair needs two answers to a problem: set samples, for example to 8")
        return self
