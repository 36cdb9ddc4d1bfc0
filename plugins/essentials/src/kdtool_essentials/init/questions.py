"""Questions of `kdtool init` in the terminal, and the answers to all of them.

A question is a numbered list with a default, answered by a number or in the user's own words. The choices of the last
two questions, goal and time, are here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click
import kdtool
from kdtool._text.terminal import end_first_line


@dataclass(frozen=True)
class Choice:
    """One answer of a list. `open`: `value` is an example, and choosing it asks for the value."""

    value: str
    text: str
    open: bool = False


class Questions:
    """Asks for missing options; with `take_defaults` every question is answered by its default."""

    def __init__(self, *, take_defaults: bool) -> None:
        self._take_defaults = take_defaults

    def choose(
        self, option: str, title: str, choices: Sequence[Choice], validate: Callable[[str], object], given: str | None
    ) -> str:
        """Return `given`, or the answer to a question; the first choice is the default.

        Args:
            option: the option that answers the question.
            title: the question.
            choices: answers to offer; others are allowed.
            validate: raises UsageError for a wrong answer; the user is then asked again.
            given: the value of the option, if any.

        Raises:
            UsageError: the option's value is wrong; or it is missing, and standard input is not a terminal.
        """
        if given is not None or self._take_defaults:
            answer = choices[0].value if given is None else given
            validate(answer)
            return answer
        self._require_terminal(option)
        kdtool.say(f"\n{title}")
        for number, choice in enumerate(choices, 1):
            kdtool.say(f"  {number}  {choice.text}")

        def read(text: str) -> str:
            answer = text.strip()
            if answer.isdecimal() and 1 <= int(answer) <= len(choices):
                chosen = choices[int(answer) - 1]
                answer = str(click.prompt("  Which", default=chosen.value)).strip() if chosen.open else chosen.value
            try:
                validate(answer)
            except kdtool.UsageError as error:
                raise click.BadParameter(str(error)) from error
            return answer

        return str(click.prompt("Number, or another answer", default="1", value_proc=read))

    def fill_in(self, option: str, title: str, default: str, given: str | None) -> str:
        """Return `given`, or a text; Enter takes the default.

        Raises:
            UsageError: the option is missing, and standard input is not a terminal.
        """
        if given is not None or self._take_defaults:
            return default if given is None else given
        self._require_terminal(option)
        return str(click.prompt(title, default=default, show_default=bool(default))).strip()

    def confirm(self, option: str, title: str) -> bool:
        """Return whether the user agrees. `take_defaults` agrees to nothing.

        Raises:
            UsageError: standard input is not a terminal.
        """
        if self._take_defaults:
            return False
        self._require_terminal(option)
        return click.confirm(title, default=False)

    def _require_terminal(self, option: str) -> None:
        end_first_line()
        if not is_terminal():
            raise kdtool.UsageError(
                f"{option} is missing, and standard input is not a terminal where kdtool init could ask; "
                f"give {option}, or --yes to take all defaults"
            )


def is_terminal() -> bool:
    """Return whether a user can answer on standard input."""
    return sys.stdin.isatty()


COMPLETION, INSTRUCTIONS = "completion", "instructions"
_SIZE = re.compile(r"\d+(\.\d+)?\s*[kmgt]?i?b", re.IGNORECASE)


@dataclass(frozen=True)
class Time:
    """Seconds of a run, the share of the teacher's layers to keep, and the number of answers to ask of a server."""

    words: str
    seconds: int
    layers: float
    answers: int


TIMES = {
    "10min": Time("ten minutes", 600, 2 / 3, 64),
    "1h": Time("an hour", 3600, 1 / 2, 400),
    "night": Time("a night of eight hours", 8 * 3600, 1 / 3, 3000),
}
"""Choices of time. More training mends deeper cuts, so longer runs keep fewer layers."""


@dataclass(frozen=True)
class Answers:
    """Everything that `kdtool init` asks; `goal` is completion, instructions or a size such as 8GB."""

    teacher: str
    hardware: str
    gpu: bool
    data: str
    goal: str
    time: str
    model: str = ""
    licence: str = ""
    column: str = ""

    @property
    def memory(self) -> str | None:
        """The memory to fit into; None for that of the machine."""
        return None if self.goal in {COMPLETION, INSTRUCTIONS} else self.goal


def goal_choices() -> list[Choice]:
    """Return the goals, the default first."""
    return [
        Choice(COMPLETION, "a model that completes code"),
        Choice(INSTRUCTIONS, "a model that follows instructions"),
        Choice("8GB", "a student and a run that fit into that memory", open=True),
    ]


def require_goal(goal: str) -> None:
    """Refuse an answer that is neither a goal nor a size.

    Raises:
        UsageError: it is neither.
    """
    if goal not in {COMPLETION, INSTRUCTIONS} and not _SIZE.fullmatch(goal):
        raise kdtool.UsageError(
            f"--goal {goal} is unknown; expected {COMPLETION}, {INSTRUCTIONS}, or a size such as 8GB"
        )


def time_choices() -> list[Choice]:
    """Return the times, the default first."""
    return [Choice(name, f"{time.words} ({name})") for name, time in TIMES.items()]


def require_time(time: str) -> None:
    """Refuse an unknown time.

    Raises:
        UsageError: it is unknown.
    """
    if time not in TIMES:
        raise kdtool.UsageError(f"--time {time} is unknown; expected {', '.join(TIMES)}")
