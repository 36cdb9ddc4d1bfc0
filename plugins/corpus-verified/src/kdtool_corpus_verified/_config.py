"""Settings of `verified`."""

from __future__ import annotations

from typing import Literal

import kdtool
import pydantic

__all__ = ["VerifiedConfig"]


class VerifiedConfig(kdtool.Config):
    """Settings of `verified`."""

    ask: str = kdtool.Field(default="teacher", min_length=1)
    """The teacher that answers, by its name in the recipe: `teacher`, or `teachers.NAME`."""
    corpus: str = kdtool.Field(min_length=1)
    """The corpus of the recipe (`corpora.NAME`) that gives the problems: prompts with solutions and tests, such as those
    of `mbpp`. Those to learn from are asked; validation and test stay as they are and are never asked."""
    give: Literal["passing", "pairs"] = "passing"
    """`passing`: the prompt with each distinct answer that passed. `pairs`: preferences of one that passed over one that
    failed."""
    samples: int = kdtool.Field(default=8, ge=1, le=10_000)
    """Answers that are asked for to each problem."""
    keep: int = kdtool.Field(default=4, ge=1, le=10_000)
    """Examples that a problem gives at most."""
    form: Literal["base", "chat"] = "base"
    """`base` has the model continue the prompt; `chat` asks by its chat template, and takes the first block of code."""
    temperature: float = kdtool.Field(default=0.8, ge=0, le=10)
    """0 takes the likeliest token each time; several samples need more."""
    max_tokens: int = kdtool.Field(default=512, ge=1, le=1_048_576)
    """Tokens of an answer at most; one that is cut off there is left out."""
    stop: tuple[str, ...] | None = None
    """Texts before which an answer ends; null takes those at which a harness ends answers to MBPP, none for `chat`."""
    limit: int | None = kdtool.Field(default=None, ge=1)
    """Ask about so many problems at most, from the first on; null asks about all."""
    seconds: float = kdtool.Field(default=3.0, gt=0, le=600)
    """A program that runs longer has failed."""
    workers: int = kdtool.Field(default=2, ge=1, le=256, json_schema_extra=kdtool.does_not_affect_results())
    """Programs that run at once."""

    @pydantic.model_validator(mode="after")
    def _can_give_that(self) -> VerifiedConfig:
        if self.samples > 1 and not self.temperature:
            raise ValueError("several samples at temperature 0 are all the same: set temperature, 0.8 for example")
        if self.samples == 1 and self.give == "pairs":
            raise ValueError("a pair needs two answers to a problem: set samples, 8 for example")
        if self.stop is not None and "" in self.stop:
            raise ValueError("stop must not hold empty text, before which every answer would end")
        return self
