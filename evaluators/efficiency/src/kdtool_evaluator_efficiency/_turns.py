"""Subjects in turns (round robin), so that a machine that slows down affects all of them alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import kdtool

__all__ = ["Amount", "NoProcessError", "Resident", "Timed", "Turn", "UnmeasurableError", "in_turns"]


class UnmeasurableError(Exception):
    """A subject cannot be timed; the message has the reason."""


class NoProcessError(UnmeasurableError):
    """No process runs only this subject, so its memory is unknown."""


@dataclass(frozen=True)
class Amount:
    """Size of a turn: tokens of the prompt, and tokens generated after it, or as many as the seconds allow."""

    prompt: int
    generated: int
    seconds: float


@dataclass(frozen=True)
class Turn:
    """Result of a subject for one prompt of `prompt` tokens.

    `tokens_per_second` is the speed after the first token, None if too few came; `joules` is the energy for the prompt and
    all `tokens` that were generated, None if nothing counts it.
    """

    prompt: int
    first_token_seconds: float
    tokens_per_second: float | None
    tokens: int
    joules: float | None


@dataclass(frozen=True)
class Resident:
    """Bytes that the process of a subject uses in main memory and on the GPU, with room for `context` tokens.

    The process has read `tokens` of them.
    """

    context: int
    tokens: int
    size: int


class Timed(Protocol):
    """A subject that is ready to generate."""

    def turn(self) -> Turn:
        """Generate once."""

    def read(self, context: int) -> Resident:
        """Read `context` tokens, or as many as fit into the model's context."""


def in_turns(timed: Mapping[str, Timed], turns: int, run: kdtool.RunInfo) -> dict[str, list[Turn]]:
    """Return what each subject did in each turn; a first turn is not counted. Failing subjects are left out, with a line."""
    results: dict[str, list[Turn]] = {name: [] for name in timed}
    for number in range(turns + 1):
        for name in list(results):
            try:
                timing = timed[name].turn()
            except UnmeasurableError as error:
                run.say(f"efficiency: {name} is not timed: {error}")
                del results[name]
                continue
            if number:
                results[name].append(timing)
        run.hook.kdtool_progress(run, number)
    return results
