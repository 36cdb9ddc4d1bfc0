"""The evaluator `livecodebench` and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import kdtool
from kdtool_programs import Limits, PassAtK

if TYPE_CHECKING:
    from kdtool_programs import Problem

    from kdtool_evaluator_livecodebench._records import Contests

__all__ = ["LiveCodeBench"]


class LiveCodeBench(PassAtK):
    """Programs for problems of contests, which read and print text or are methods; scored by all tests of a problem."""

    benchmark: ClassVar[str] = "livecodebench"
    harness: ClassVar[Mapping[str, str]] = {
        "base": "LiveCodeBench's for base models, with another example",
        "chat": "LiveCodeBench's generic prompt, in the model's chat template",
    }
    limits = Limits(60.0, 2**30)
    """For all tests of a problem together; LiveCodeBench allows 6 s for each."""

    class Config(PassAtK.Config):
        """Settings of `livecodebench`."""

        file: kdtool.RecipePath
        """test.jsonl of livecodebench/code_generation_lite, or another file of this form, compressed with gzip or not,
        relative to the recipe."""
        after: date | None = None
        """Only problems of contests on this date (YYYY-MM-DD) or later, such as the end of a model's training text."""
        before: date | None = None
        """Only problems of contests before this date (YYYY-MM-DD)."""
        maximum_tokens: int = kdtool.Field(default=2000, ge=1, le=100_000)
        """Maximum tokens per answer; published scores allow 2,000."""

    config: Config

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the file.

        Raises:
            kdtool.UsageError: it cannot be read.
        """
        from kdtool_measuring import read_and_hash

        return {"problems": read_and_hash(self.config.file, "livecodebench.file")[1]}

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the problems of the contests in the window.

        Raises:
            kdtool.UsageError: the file cannot be read, is in another form, or has no problem in the window.
        """
        return self._contests.problems

    def benchmark_settings(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Return the harness with the same prompts, the window of dates, and the problems that are left out."""
        window = [f"{name} {day}" for name in ("after", "before") if (day := getattr(self.config, name)) is not None]
        left_out = self._contests.left_out
        return {
            **super().benchmark_settings(problems),
            "contests": ", ".join(window) or "all",
            **({"left out": ", ".join(left_out)} if left_out else {}),
        }

    @cached_property
    def _contests(self) -> Contests:
        from kdtool_evaluator_livecodebench._records import read_contests

        return read_contests(self.config.file, self.config.after, self.config.before)
