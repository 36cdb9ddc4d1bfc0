"""Every error that kdtool raises for its user, and the exit code each has.

KdtoolError
├── UsageError             2   the call or the recipe is wrong
│   └── RecipeError        2   all that is wrong with a recipe, with places
├── PluginError            1   a plugin is broken: cannot be imported, registered, or gave a wrong result
├── BudgetError            3   a limit would be exceeded
├── AuthenticationError    4   a key is missing or refused, or billing failed
├── ServiceError           5   a remote service stayed down, or something cannot be had offline
├── TargetMissedError           6   a required score was not reached
├── LockedError            7   another process works on the same run
├── StorageError           8   disk full, read-only, or a stored file is damaged
├── MemoryExceededError         9   not enough memory
└── SandboxError          10   no safe way to execute generated code

Messages say what was given, what was expected, where, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "AuthenticationError",
    "BudgetError",
    "KdtoolError",
    "LockedError",
    "MemoryExceededError",
    "PluginError",
    "Problem",
    "RecipeError",
    "SandboxError",
    "ServiceError",
    "StorageError",
    "TargetMissedError",
    "UsageError",
    "cause_of",
]


class KdtoolError(Exception):
    """Base of all errors meant for the user; shown without a traceback."""

    exit_code = 1


class UsageError(KdtoolError):
    """The call is wrong."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a recipe: where (file, line and column from 1, key path), what, and what to do.

    `plugin` says that not the recipe is wrong but the plugin that it names.
    """

    key: str
    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    remedy: str = ""
    plugin: bool = False

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        text = ": ".join(part for part in (where, self.key, self.message) if part)
        return f"{text}\n    {self.remedy}" if self.remedy else text


class RecipeError(UsageError):
    """All problems of a recipe at once, sorted by place. The exit code is a plugin's where only plugins are wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column, p.key)))
        if self.problems and all(problem.plugin for problem in self.problems):
            self.exit_code = PluginError.exit_code
        count = len(self.problems)
        head = "1 problem in the recipe" if count == 1 else f"{count} problems in the recipe"
        super().__init__("\n".join([f"{head}:", *(f"  {line}" for p in self.problems for line in str(p).splitlines())]))


class PluginError(KdtoolError):
    """A plugin cannot be imported or registered, or returned something that its contract does not allow."""


class BudgetError(KdtoolError):
    """A limit that the user set would be exceeded."""

    exit_code = 3


class AuthenticationError(KdtoolError):
    """A key is missing or refused, or billing failed."""

    exit_code = 4


class ServiceError(KdtoolError):
    """A remote service stayed down, or something that is needed cannot be had without a network."""

    exit_code = 5


class TargetMissedError(KdtoolError):
    """A required score was not reached; the run is finished."""

    exit_code = 6
    results: Any
    """The finished run's `Results`."""

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
    """There is not enough memory; the message names the part that was being built and what would need less."""

    exit_code = 9


class SandboxError(KdtoolError):
    """There is no safe way to execute generated code on this machine."""

    exit_code = 10


def cause_of(error: BaseException) -> str:
    """Return an exception in one line, for messages about foreign code."""
    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r})"
    try:
        text = str(error).strip()
    except Exception:  # foreign exceptions may fail to say what they are
        text = ""
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}".rstrip(": ")
