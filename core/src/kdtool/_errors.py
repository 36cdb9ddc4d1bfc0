"""Every error that kdtool raises for its user, and the exit code of each.

Messages name the key or value that is wrong, what was expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


class KdtoolError(Exception):
    """Base of all errors meant for the user; shown without a traceback."""

    exit_code = 1


class UsageError(KdtoolError):
    """The call is wrong. `settings`, if any, are those of the component that raises it with which it would not."""

    exit_code = 2

    def __init__(self, message: str = "", settings: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.settings: Mapping[str, Any] = settings or {}


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe: where (file, line and column from 1, key path), what, and what to do.

    `plugin` marks a mistake in the plugin that the recipe names, not in the recipe. `settings` resolve it, by key path; {}
    if the decision is the user's.
    """

    key: str
    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    remedy: str = ""
    plugin: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        text = ": ".join(filter(None, (where, self.key, self.message)))
        return f"{text}\n    {self.remedy}" if self.remedy else text


class RecipeError(UsageError):
    """All problems of a recipe at once, sorted by place. The exit code is a plugin's where only plugins are wrong.

    `settings`, by key path, are those with which `kdtool.check` accepts the recipe; {} if it knows none.
    """

    def __init__(self, problems: Sequence[Problem], settings: Mapping[str, Any] | None = None) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column, p.key)))
        if self.problems and all(problem.plugin for problem in self.problems):
            self.exit_code = PluginError.exit_code
        super().__init__(list_problems(self.problems), settings)


def list_problems(problems: Sequence[Problem], write: Callable[[Problem], str] = str) -> str:
    """Return the message for a recipe's problems, in which `write` writes each of them."""
    count = len(problems)
    if count == 1 and not (problems[0].file or problems[0].key):  # the recipe's file itself
        return write(problems[0])
    lines = [f"  {line}" for problem in problems for line in write(problem).splitlines()]
    return "\n".join([f"{count} problem{'s' * (count != 1)} in the recipe:", *lines])


class PluginError(KdtoolError):
    """A plugin cannot be imported or registered, or returned something that its contract does not allow."""


class BudgetError(KdtoolError):
    """A limit that the user set would be exceeded."""

    exit_code = 3


class AuthenticationError(KdtoolError):
    """A key is missing or refused, or billing failed."""

    exit_code = 4


class ServiceError(KdtoolError):
    """A remote service stayed down, or a required download needs a network."""

    exit_code = 5


class TargetMissedError(KdtoolError):
    """A required score was not reached; the run is finished. `results` are its `Results`."""

    exit_code = 6
    results: Any

    def __init__(self, message: str, results: Any = None) -> None:
        super().__init__(message)
        self.results = results


class LockedError(KdtoolError):
    """Another process works on the same run."""

    exit_code = 7


class StorageError(KdtoolError):
    """A disk is full or read-only, or a stored file is damaged."""

    exit_code = 8


class MemoryExceededError(KdtoolError):
    """Not enough memory; the message names the part that was being built and a change that needs less."""

    exit_code = 9


def is_interrupt(error: BaseException) -> bool:
    """Return whether Ctrl-C or a stop signal ended the work."""
    return isinstance(error, KeyboardInterrupt)


def cause_of(error: BaseException) -> str:
    """Return an exception in one line, for messages about foreign code."""
    if isinstance(error, SystemExit):
        return f"it ends the process (exit code {error.code!r})"
    try:
        text = str(error).strip()
    except Exception:  # `__str__` of a foreign exception may fail
        text = ""
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}".rstrip(": ")


@contextmanager
def resumable() -> Iterator[None]:
    """Note on any exception from the block, Ctrl-C included, that finished work is kept and the same call resumes."""
    try:
        yield
    except BaseException as error:
        vars(error)["__kdtool_resumable__"] = True
        raise


def is_resumable(error: BaseException) -> bool:
    """Return whether the call that raised it keeps finished work and can be made again."""
    return "__kdtool_resumable__" in vars(error)
