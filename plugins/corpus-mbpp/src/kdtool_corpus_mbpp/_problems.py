"""MBPP's problems from the two published forms: mbpp.jsonl, and sanitized-mbpp.json, which names its text `prompt`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kdtool

__all__ = ["Problem", "problem_of", "problems_of_file", "read_bytes"]


@dataclass(frozen=True)
class Problem:
    """A problem: its number, what is asked, a solution, its tests, and what must run before them."""

    number: int
    text: str
    code: str
    tests: tuple[str, ...]
    setup: str


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
            "folder mbpp of github.com/google-research/google-research; without `file` the problems come from the hub"
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
            else [json.loads(one) for one in text.splitlines() if one.strip()]
        )
    except ValueError as error:
        raise kdtool.UsageError(f"mbpp.file: {path} is neither JSON Lines nor a list in JSON: {error}") from error
    seen: set[int] = set()
    for place, record in enumerate(records, 1):
        problem = problem_of(record, f"{path}, problem {place}")
        if problem.number in seen:
            raise kdtool.UsageError(f"mbpp.file: {path} holds the problem {problem.number} twice")
        seen.add(problem.number)
        yield problem
    if not seen:
        raise kdtool.UsageError(f"mbpp.file: {path} holds no problem")


def problem_of(record: Any, place: str) -> Problem:
    """Return the problem that a record holds, lines ended by a line feed.

    Raises:
        kdtool.UsageError: it is none.
    """
    found = record if isinstance(record, Mapping) else {}
    number, text, code = found.get("task_id"), found.get("text", found.get("prompt")), found.get("code")
    tests, setup = found.get("test_list"), found.get("test_setup_code", found.get("test_imports")) or []
    setup = [setup] if isinstance(setup, str) else setup
    if not (isinstance(number, int) and number > 0 and isinstance(text, str) and isinstance(code, str)):
        raise _no_problem(place)
    if not tests or not _are_texts(tests) or not _are_texts(setup):
        raise _no_problem(place)
    return Problem(number, _tidy(text), _tidy(code), tuple(map(_tidy, tests)), _tidy("\n".join(setup)))


def _no_problem(place: str) -> kdtool.UsageError:
    return kdtool.UsageError(f"{place}: is no problem of MBPP: it needs task_id, text or prompt, code and test_list")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _tidy(text: str) -> str:
    return text.replace("\r\n", "\n").strip()
