"""The evaluator `mbpp` and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Literal

import kdtool
from kdtool_measuring import read_and_hash
from kdtool_programs import EVALPLUS, PassAtK, Problem

from kdtool_mbpp._problems import plus_problems, problem_of
from kdtool_mbpp._published import LICENCE, MbppProblems, split_of

__all__ = ["MbppEvaluator"]


class MbppEvaluator(PassAtK):
    """Python functions to be written from a sentence and a test; scored by three tests each."""

    benchmark: ClassVar[str] = "mbpp"
    harness: ClassVar[Mapping[str, str]] = {
        "base": "bigcode-evaluation-harness, task mbpp (there 15 samples at temperature 0.1)",
        "chat": "lm-evaluation-harness, task mbpp_instruct (there after three examples, at most 256 tokens)",
    }

    class Config(PassAtK.Config):
        """Settings of `mbpp`."""

        file: kdtool.RecipePath | None = kdtool.Field(default=None)
        """mbpp.jsonl or sanitized-mbpp.json, relative to the recipe; null reads the dataset from the Hub."""
        variant: Literal["full", "sanitized"] = "full"
        """On the Hub: all 974 problems, or the 427 that were checked by hand. Not used with `file`."""
        revision: str | None = None
        """Branch, tag or commit of the dataset on the Hub; null takes the newest. The run records the commit."""
        split: Literal["train", "validation", "test"] = "test"
        """Part of the problems; published scores are for `test`, the problems 11 to 510."""
        plus: kdtool.RecipePath | None = kdtool.Field(default=None)
        """MbppPlus-OriginFmt.jsonl, packed by gzip or not: 378 problems with some 35 times as many tests, all of them taken
        for every `split`; the measurement is called `mbpp+`. null takes MBPP."""

    config: Config

    def __init__(self, config: Config) -> None:
        if config.plus is not None:
            self.benchmark = "mbpp+"  # type: ignore[misc] # of this instance
            self.limits = EVALPLUS
        super().__init__(config)

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the file, or the dataset's commit.

        Raises:
            kdtool.UsageError: the file cannot be read.
            kdtool.ServiceError: the Hub cannot be reached.
        """
        if self.config.plus is None:
            return self._problem_file.identity(offline=run.offline)
        return {"plus": read_and_hash(self.config.plus, "mbpp.plus")[1]}

    @property
    def licence_terms(self) -> kdtool.LicenceTerms:
        """Return the licence of the problems."""
        if self.config.plus is not None:
            return kdtool.LicenceTerms("Apache-2.0 AND CC-BY-4.0", url="https://github.com/evalplus/mbppplus_release")
        return LICENCE

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the split's problems by their numbers.

        Raises:
            kdtool.UsageError: a file cannot be read, or is in another form.
            kdtool.ServiceError: the Hub cannot be reached.
        """
        if self.config.plus is not None:
            return plus_problems(self.config.plus)
        published = self._problem_file.read(offline=run.offline)
        taken = [problem for problem in published if split_of(problem.number) == self.config.split]
        if not taken:
            raise kdtool.UsageError(
                f"mbpp.split: there are no problems in the split {self.config.split!r}; choose another split or file"
            )
        return [problem_of(problem) for problem in taken]

    @cached_property
    def _problem_file(self) -> MbppProblems:
        return MbppProblems(self.config.file, self.config.variant, self.config.revision)
