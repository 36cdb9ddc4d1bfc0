"""A problem as a benchmark gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from kdtool_sandbox import Module, Program

__all__ = ["Form", "Limits", "Problem"]


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

    `forms` are the ways to ask, by `PassAtK.Config.form`. What is run of an answer is made by `continued` of code that goes
    on behind the prompt, and by `whole` of code that stands for itself. `solution` is the benchmark's own, for `continued`;
    "" where it has none. `language` is that of the programs, as the sandbox calls it.
    """

    id: str
    forms: Mapping[Literal["base", "chat"], Form]
    continued: Callable[[str], Module | Program]
    whole: Callable[[str], Module | Program]
    solution: str
    language: str = "python"
