"""MBPP's problems, from the Hub or from the two published files.

The files are mbpp.jsonl, and sanitized-mbpp.json, which names its text `prompt`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import kdtool
from kdtool_datasets import HubDataset

__all__ = ["LICENCE", "MbppProblems", "Problem", "prompt_of", "split_of"]

LICENCE = kdtool.LicenceTerms("CC-BY-4.0", url="https://creativecommons.org/licenses/by/4.0/")
_NAME = "google-research-datasets/mbpp"


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

    def __init__(self, file: Path | None, variant: Literal["full", "sanitized"], revision: str | None) -> None:
        self._file = file
        self._hub = None if file is not None else HubDataset(_NAME, variant, revision)

    def identity(self, *, offline: bool) -> Mapping[str, str]:
        """Return the file's SHA-256, or the dataset's commit.

        Raises:
            kdtool.UsageError: the file cannot be read.
            kdtool.ServiceError: the Hub cannot be reached.
        """
        if self._file is not None:
            return {"file": read_bytes(self._file)[1]}
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


def read_bytes(path: Path) -> tuple[bytes, str]:
    """Return a file's content and its SHA-256.

    Raises:
        kdtool.UsageError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise kdtool.UsageError(
            f"mbpp.file: {path} cannot be read: {error.strerror or error}; mbpp.jsonl and sanitized-mbpp.json are in the "
            "folder mbpp of github.com/google-research/google-research; without `file` the problems come from the Hub"
        ) from error
    return content, hashlib.sha256(content).hexdigest()


def problems_of_file(path: Path) -> Iterator[Problem]:
    """Yield the problems of a file.

    Raises:
        kdtool.UsageError: it cannot be read, or is in neither form.
    """
    try:
        text = read_bytes(path)[0].decode("utf-8-sig")
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
