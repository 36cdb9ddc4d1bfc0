"""The evaluator `humaneval` and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import kdtool
from kdtool_programs import EVALPLUS, PassAtK

if TYPE_CHECKING:
    from kdtool_programs import Problem

__all__ = ["HumanEval"]


class HumanEval(PassAtK):
    """164 Python functions to be written from their signature and documentation, each with hidden tests."""

    benchmark: ClassVar[str] = "humaneval"
    harness: ClassVar[Mapping[str, str]] = {
        "base": "lm-evaluation-harness, task humaneval",
        "chat": "lm-evaluation-harness, task humaneval_instruct",
    }

    class Config(PassAtK.Config):
        """Settings of `humaneval`."""

        maximum_tokens: int = kdtool.Field(default=1024, ge=1, le=100_000)
        """Largest number of tokens of an answer; lm-evaluation-harness allows 1,024."""
        plus: kdtool.RecipePath | None = kdtool.Field(default=None)
        """HumanEvalPlus-OriginFmt.jsonl, compressed with gzip or not, relative to the recipe: its tests, some 80 times
        as many, replace the original ones, and the measurement is called `humaneval+`. null takes HumanEval."""

    config: Config

    def __init__(self, config: Config) -> None:
        if config.plus is not None:
            self.benchmark = "humaneval+"  # type: ignore[misc] # of this instance
            self.limits = EVALPLUS
        super().__init__(config)

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the problems.

        Raises:
            kdtool.UsageError: the file cannot be read.
        """
        from kdtool_measuring import read_and_hash

        from kdtool_evaluator_humaneval._problems import file_of

        return {"problems": read_and_hash(file_of(self.config.plus), "humaneval.plus")[1]}

    @property
    def licence_terms(self) -> kdtool.LicenceTerms:
        """Give the licence of the problems."""
        if self.config.plus is not None:
            return kdtool.LicenceTerms("Apache-2.0", url="https://github.com/evalplus/humanevalplus_release")
        return kdtool.LicenceTerms("MIT", url="https://github.com/openai/human-eval")

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the problems by their numbers.

        Raises:
            kdtool.UsageError: the file cannot be read, or is in another form.
        """
        from kdtool_evaluator_humaneval._problems import problems_of

        return problems_of(self.config.plus)
