"""The corpus `mbpp`: MBPP's problems with a solution, from the Hub or from the two published files.

The files are mbpp.jsonl, and sanitized-mbpp.json, which names its text `prompt`. A problem's number decides its split, as
published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import kdtool
from kdtool_data.records import HubDataset
from kdtool_measuring import read_and_hash

LICENCE = kdtool.LicenceTerms("CC-BY-4.0", url="https://creativecommons.org/licenses/by/4.0/")


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
        return MbppProblems(self.config.file, self.config.variant)


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


_NAME = "google-research-datasets/mbpp"
_REMEDY = (
    "fetch mbpp.jsonl elsewhere (https://github.com/google-research/google-research/tree/master/mbpp) and name it in the "
    "setting `file`: --set evaluators.mbpp.file=mbpp.jsonl, or corpus.file for the corpus"
)


@dataclass(frozen=True)
class Problem:
    """A problem: its number, its text, a solution, its tests, and the code that must run before them."""

    number: int
    text: str
    code: str
    tests: tuple[str, ...]
    setup: str


class MbppProblems:
    """Source of the problems: a file, or the dataset on the Hub."""

    def __init__(self, file: Path | None, variant: Literal["full", "sanitized"]) -> None:
        self._file = file
        self._hub = None if file is not None else HubDataset(_NAME, variant, remedy=_REMEDY)

    def identity(self, *, offline: bool) -> Mapping[str, str]:
        """Return the file's SHA-256, or the dataset's commit.

        Raises:
            kdtool.UsageError: the file cannot be read.
            kdtool.ServiceError: the Hub cannot be reached.
        """
        if self._file is not None:
            return {"file": read_and_hash(self._file, "mbpp.file")[1]}
        assert self._hub is not None  # noqa: S101 - set if there is no file
        return self._hub.identity(offline=offline)

    def read(self, *, offline: bool) -> list[Problem]:
        """Return all problems by their numbers, those that are meant for prompts too.

        Raises:
            kdtool.UsageError: the file cannot be read, or is in neither form.
            kdtool.ServiceError: the Hub cannot be reached.
        """
        return sorted(self._problems(offline=offline), key=lambda problem: problem.number)

    def _problems(self, *, offline: bool) -> Iterator[Problem]:
        if self._hub is None:
            assert self._file is not None  # noqa: S101 - set if there is no Hub
            yield from problems_of_file(self._file)
            return
        for split in ("train", "validation", "test"):
            for record in self._hub.records(split, offline=offline):
                yield problem_of(record, f"{_NAME}, split {split}")


def split_of(number: int) -> kdtool.Split | None:
    """Return a problem's split, as published; None for problems that are meant for few-shot prompts."""
    if number <= 10:
        return None
    if number <= 510:
        return "test"
    return "validation" if number <= 600 else "train"


def prompt_of(problem: Problem) -> str:
    """Return the prompt of Fried et al. 2022 (InCoder) and later harnesses: the first test shows the function's name."""
    return f'"""\n{problem.text}\n{problem.tests[0]}\n"""\n'


def problems_of_file(path: Path) -> Iterator[Problem]:
    """Yield the problems of a file.

    Raises:
        kdtool.UsageError: it cannot be read, or is in neither form.
    """
    try:
        text = read_and_hash(path, "mbpp.file")[0].decode("utf-8-sig")
        records = (
            json.loads(text)
            if text.lstrip()[:1] == "["
            else [json.loads(line) for line in text.split("\n") if line.strip()]
        )
    except ValueError as error:
        raise kdtool.UsageError(f"mbpp.file: {path} is neither JSON Lines nor a list in JSON: {error}") from error
    seen: set[int] = set()
    for number, record in enumerate(records, 1):
        problem = problem_of(record, f"{path}, problem {number}")
        if problem.number in seen:
            raise kdtool.UsageError(f"mbpp.file: {path} holds the problem {problem.number} twice")
        seen.add(problem.number)
        yield problem
    if not seen:
        raise kdtool.UsageError(f"mbpp.file: {path} contains no problems")


def problem_of(record: Any, source: str) -> Problem:
    """Return the problem of a record, with lines ended by a line feed.

    Raises:
        kdtool.UsageError: the record is not a problem.
    """
    fields = record if isinstance(record, Mapping) else {}
    number, text, code = fields.get("task_id"), fields.get("text", fields.get("prompt")), fields.get("code")
    tests, setup = fields.get("test_list"), fields.get("test_setup_code", fields.get("test_imports")) or []
    setup = [setup] if isinstance(setup, str) else setup
    if not (isinstance(number, int) and number > 0 and isinstance(text, str) and isinstance(code, str)):
        raise _no_problem(source)
    if not tests or not _are_texts(tests) or not _are_texts(setup):
        raise _no_problem(source)
    return Problem(number, _tidy(text), _tidy(code), tuple(map(_tidy, tests)), _tidy("\n".join(setup)))


def _no_problem(source: str) -> kdtool.UsageError:
    return kdtool.UsageError(f"{source}: not a problem of MBPP: it needs task_id, text or prompt, code and test_list")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _tidy(text: str) -> str:
    return text.replace("\r\n", "\n").strip()
