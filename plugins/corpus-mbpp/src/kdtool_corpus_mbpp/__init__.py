"""MBPP, Mostly Basic Python Problems (Austin et al. 2021, arXiv 2108.07732): problems with a solution and tests.

`Mbpp` is the corpus that recipes call `mbpp`. A problem's number decides its split, as its authors say; `_problems` reads
the two forms in which the problems were published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import kdtool

from kdtool_corpus_mbpp._problems import Problem, problem_of, problems_of_file, read_bytes

if TYPE_CHECKING:
    from kdtool_datasets import HubDataset

__all__ = ["Mbpp", "Problem", "prompt_of", "split_of"]

_NAME = "google-research-datasets/mbpp"


class Mbpp(kdtool.Corpus):
    """One example for each problem: its text with its first test as a prompt, its solution as the completion.

    374 problems (601 to 974) are for training, 90 for validation, 500 (11 to 510) for the test; ten are meant as examples in
    prompts and are left out. The tests are in the example's `meta`.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `mbpp`."""

        file: Path | None = kdtool.Field(default=None, json_schema_extra=kdtool.does_not_affect_results())
        """mbpp.jsonl or sanitized-mbpp.json, relative to the working directory; null reads the data set from the hub."""
        variant: Literal["full", "sanitized"] = "full"
        """All 974 problems, or the 427 that were checked by hand (120 for training). A file is what it is."""
        revision: str | None = None
        """Branch, tag or commit of the data set on the hub; null takes the newest. The run records the commit."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._dataset: HubDataset | None = None

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the file's SHA-256, or the data set's commit.

        Raises:
            kdtool.UsageError: the file cannot be read.
            kdtool.ServiceError: the hub cannot be reached.
        """
        if self.config.file is not None:
            return {"file": read_bytes(self.config.file)[1]}
        return self._hub().identity(offline=run.offline)

    def kdtool_acknowledge(self) -> kdtool.Terms:
        """Give the licence of the problems."""
        return kdtool.Terms("CC-BY-4.0", url="https://creativecommons.org/licenses/by/4.0/")

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield the problems by their numbers.

        Raises:
            kdtool.UsageError: the file cannot be read, or is in neither form.
            kdtool.ServiceError: the hub cannot be reached.
        """
        for problem in self.problems(run):
            split = split_of(problem.number)
            if split is not None:
                yield _example(problem, split)

    def problems(self, run: kdtool.RunInfo) -> list[Problem]:
        """Return all problems by their numbers, those that are meant for prompts too.

        Raises:
            kdtool.UsageError: the file cannot be read, or is in neither form.
            kdtool.ServiceError: the hub cannot be reached.
        """
        return sorted(self._read(run), key=lambda problem: problem.number)

    def _read(self, run: kdtool.RunInfo) -> Iterator[Problem]:
        if self.config.file is not None:
            yield from problems_of_file(self.config.file)
            return
        for split in ("train", "validation", "test"):
            for record in self._hub().records(split, offline=run.offline):
                yield problem_of(record, f"{_NAME}, split {split}")

    def _hub(self) -> HubDataset:
        if self._dataset is None:
            from kdtool_datasets import HubDataset

            self._dataset = HubDataset(_NAME, self.config.variant, self.config.revision)
        return self._dataset


def split_of(number: int) -> kdtool.Split | None:
    """Return a problem's split; None for those that are meant for prompts."""
    if number <= 10:
        return None
    if number <= 510:
        return "test"
    return "validation" if number <= 600 else "train"


def prompt_of(problem: Problem) -> str:
    """Return what Fried et al. 2022 (InCoder) and the harnesses after it ask: the first test tells the function's name."""
    return f'"""\n{problem.text}\n{problem.tests[0]}\n"""\n'


def _example(problem: Problem, split: kdtool.Split) -> kdtool.Example:
    return kdtool.Example(
        id=f"mbpp/{problem.number}",
        body=kdtool.Completion(prompt_of(problem), f"{problem.code}\n"),
        split=split,
        language="python",
        licence="CC-BY-4.0",
        source="MBPP",
        meta={"tests": json.dumps(problem.tests), "setup": problem.setup},
    )
