"""The corpus `mbpp`: problems with a solution. A problem's number decides its split, as published."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal

import kdtool

from kdtool_mbpp._published import LICENCE, MbppProblems, Problem, prompt_of, split_of

__all__ = ["MbppCorpus"]


class MbppCorpus(kdtool.Corpus):
    """One example for each problem: its text with its first test as a prompt, its solution as the completion.

    374 problems (601 to 974) are for training, 90 for validation, 500 (11 to 510) for the test; ten are meant as examples in
    prompts and are left out. The tests are in the example's `meta`.
    """

    config: Config
    licence_terms = LICENCE

    class Config(kdtool.Config):
        """Settings of `mbpp`."""

        file: kdtool.RecipePath | None = kdtool.Field(default=None, json_schema_extra=kdtool.does_not_affect_results())
        """mbpp.jsonl or sanitized-mbpp.json, relative to the recipe; null reads the dataset from the Hub."""
        variant: Literal["full", "sanitized"] = "full"
        """All 974 problems, or the 427 that were checked by hand (120 for training). Not used with `file`."""
        revision: str | None = None
        """Branch, tag or commit of the dataset on the Hub; null takes the newest. The run records the commit."""

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the file's SHA-256, or the dataset's commit.

        Raises:
            kdtool.UsageError: the file cannot be read.
            kdtool.ServiceError: the Hub cannot be reached.
        """
        return self._problems.identity(offline=run.offline)

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Return a message if the file is missing."""
        file = self.config.file
        return [f"file: no such file: {file.absolute()}"] if file is not None and not file.exists() else []

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield the problems by their numbers.

        Raises:
            kdtool.UsageError: the file cannot be read, or is in neither form.
            kdtool.ServiceError: the Hub cannot be reached.
        """
        for problem in self._problems.read(offline=run.offline):
            split = split_of(problem.number)
            if split is not None:
                yield _example(problem, split)

    @cached_property
    def _problems(self) -> MbppProblems:
        return MbppProblems(self.config.file, self.config.variant, self.config.revision)


def _example(problem: Problem, split: kdtool.Split) -> kdtool.Example:
    return kdtool.Example(
        id=f"mbpp/{problem.number}",
        body=kdtool.Completion(prompt_of(problem), f"{problem.code}\n"),
        split=split,
        language="python",
        licence=LICENCE.licence,
        source="MBPP",
        meta={"tests": json.dumps(problem.tests), "setup": problem.setup},
    )
