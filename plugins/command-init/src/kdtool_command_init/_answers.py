"""The answers to all questions; the choices of the last two, goal and time."""

from __future__ import annotations

import re
from dataclasses import dataclass

import kdtool

from kdtool_command_init._questions import Choice

__all__ = [
    "COMPLETION", "INSTRUCTIONS", "TIMES", "Answers", "goal_choices", "require_goal", "require_time", "time_choices",
]  # fmt: skip

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
        Choice("8GB", "a student and a run that fit into so much memory", open=True),
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
