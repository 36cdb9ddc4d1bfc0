"""A problem of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, NamedTuple

from kdtool_programs._task import Module, Program

__all__ = ["Form", "Limits", "Problem", "digest_of"]


class Form(NamedTuple):
    """One form of prompt: a conversation (empty for base models), the beginning of the answer, and stop strings.

    `suffix` is the code after the answer (infilling); None continues the prompt.
    """

    turns: tuple[tuple[str, str], ...]
    prompt: str
    stop: tuple[str, ...]
    suffix: str | None = None


class Limits(NamedTuple):
    """Resource limits of a program: `seconds` and `memory` as in `kdtool_programs.Task`."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Problem:
    """One problem.

    `forms` are the forms of prompt, by `PassAtKConfig.form`. `continued` makes a program of code that continues the prompt,
    `whole` of code that is complete by itself. `solution` is the reference solution, for `continued`; "" if there is none.
    `language` is the sandbox's name for the programs' language.
    """

    id: str
    forms: Mapping[Literal["base", "chat"], Form]
    continued: Callable[[str], Module | Program]
    whole: Callable[[str], Module | Program]
    solution: str
    language: str = "python"


def digest_of(problems: Sequence[Problem], form: Literal["base", "chat"]) -> str:
    """Return a digest of the problems for a measurement's settings: 12 hex digits.

    It covers their ids, their prompts in this form, and the programs of an empty answer, which contain the tests.
    """
    digest = sha256()
    for problem in problems:
        programs = [_content(make("")) for make in (problem.continued, problem.whole)]
        asked = [part for part in problem.forms[form] if part is not None]
        digest.update(json.dumps([problem.id, asked, programs], sort_keys=True).encode())
    return digest.hexdigest()[:12]


def _content(work: Module | Program) -> object:
    """Return the machine-independent content of a program: its commands contain the toolchain's folders."""
    return [work.source, work.tests, work.names, work.helpers] if isinstance(work, Module) else dict(work.files)
