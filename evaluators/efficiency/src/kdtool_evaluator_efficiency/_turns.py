"""Amounts to time, and subjects in turns on a machine that may do other work.

Turns are round robin, so that a machine that slows down affects all subjects alike. Processor time of other programs, which
makes the figures too low, is measured meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import kdtool


class EfficiencyConfig(kdtool.Config):
    """Amounts to time."""

    turns: int = kdtool.Field(default=5, ge=1, le=1000)
    """Timed turns of each subject; the median is reported, with the least and the most as its bounds."""
    prompt: int = kdtool.Field(default=128, ge=1, le=100_000)
    """Tokens of the prompt; half of a model's context at most."""
    generated: int = kdtool.Field(default=32, ge=2, le=100_000)
    """Tokens generated after the prompt, one at a time, greedily; fewer if a model's context ends before."""
    seconds: float = kdtool.Field(default=2.0, gt=0, le=3600)
    """Longest time that a turn generates, even if fewer tokens were generated."""
    context: int | None = kdtool.Field(default=4096, ge=16, le=10_000_000)
    """Tokens read before resident memory is measured; fewer if a model's context ends before. null leaves that out."""


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

    `tokens_per_second` is the speed after the first token, None if too few came.
    """

    prompt: int
    first_token_seconds: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class Resident:
    """Bytes that the process of a subject uses in main memory and on the GPU, with room for `context` tokens.

    The process has read `tokens` of them.
    """

    context: int
    tokens: int
    size: int


def in_turns(timed: Mapping[str, Callable[[], Turn]], turns: int, run: kdtool.RunInfo) -> dict[str, list[Turn]]:
    """Return what each subject did in each turn; a first turn is not counted. Failing subjects are left out, with a line."""
    results: dict[str, list[Turn]] = {name: [] for name in timed}
    for number in range(turns + 1):
        for name in list(results):
            try:
                timing = timed[name]()
            except UnmeasurableError as error:
                run.say(f"efficiency: {name} is not timed: {error}")
                del results[name]
                continue
            if number:
                results[name].append(timing)
        run.hook.kdtool_progress(run, number, turns)
    return results


_LEAST_OTHER_WORK = 0.25
"""Other work, in cores, below which a machine is idle."""


class OtherWork:
    """Measures the processor time of other processes, and of other machines on the same hardware, from now on.

    Args:
        own: returns the seconds of processor time that the measured processes used so far.
    """

    def __init__(self, own: Callable[[], float]) -> None:
        self._own = own
        self._begun, self._own_before, self._all_before = perf_counter(), own(), _busy_seconds()

    def cores(self) -> float | None:
        """Return the average number of cores that others used; None if the system does not count them."""
        now = _busy_seconds()
        if now is None or self._all_before is None:
            return None
        elapsed = max(perf_counter() - self._begun, 1e-9)
        return max(0.0, (now - self._all_before) - (self._own() - self._own_before)) / elapsed

    def disturbance(self, threads: int) -> float:
        """Return how many cores others took on average if that left too few for `threads`, else 0."""
        others = self.cores() or 0.0
        return others if others > _LEAST_OTHER_WORK and others + threads > (os.cpu_count() or 1) else 0.0


def _busy_seconds() -> float | None:
    """Return the seconds for which all cores together computed since the machine started, stolen time among them."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
