"""A problem as a benchmark gives it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from kdtool_sandbox import Module, Program

__all__ = ["Form", "Limits", "Problem", "digest_of"]


class Form(NamedTuple):
    """One way to ask: a conversation (none for a base model), how the answer begins, and where it ends."""

    turns: tuple[tuple[str, str], ...]
    prompt: str
    stop: tuple[str, ...]


class Limits(NamedTuple):
    """What a program may take: wall seconds, and bytes of memory."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Problem:
    """One problem.

    `forms` are the ways to ask, by `PassAtKConfig.form`. What is run of an answer is made by `continued` of code that goes
    on behind the prompt, and by `whole` of code that stands for itself. `solution` is the benchmark's own, for `continued`;
    "" where it has none. `language` is that of the programs, as the sandbox calls it.
    """

    id: str
    forms: Mapping[Literal["base", "chat"], Form]
    continued: Callable[[str], Module | Program]
    whole: Callable[[str], Module | Program]
    solution: str
    language: str = "python"


def digest_of(problems: Sequence[Problem], form: Literal["base", "chat"]) -> str:
    """Return what tells these problems from others, for a measurement's settings: 12 digits of a hash.

    It is of their ids, of how they are asked in this form, and of what is run of an empty answer, which holds the tests.
    """
    found = sha256()
    for one in problems:
        programs = [_content(make("")) for make in (one.continued, one.whole)]
        found.update(json.dumps([one.id, one.forms[form], programs], sort_keys=True).encode())
    return found.hexdigest()[:12]


def _content(work: Module | Program) -> object:
    """Return what a program is on every machine: its commands name the toolchain's folders, which differ."""
    from kdtool_sandbox import Module

    return [work.source, work.tests, work.names, work.helpers] if isinstance(work, Module) else dict(work.files)
