"""Numbers as the command line prints them: as many digits as their interval justifies, with units."""

from __future__ import annotations

from math import floor, inf, log10

SHOWN_UNITS = {"fraction": 100.0, "%": 1.0, "percent": 1.0, "s": 1.0, "seconds": 1.0, "bytes": 1.0, "parameters": 1.0}
"""Units that a figure shows, with the factor by which it is multiplied."""
_SUFFIXES = {"fraction": " %", "%": " %", "percent": " %", "s": " s", "seconds": " s"}

_DIVERGED = 1e9
"""Numbers from here on are shown with an exponent."""


def figure(
    value: float, unit: str, low: float | None = None, high: float | None = None, *, signed: bool = False
) -> str:
    """Return a value with the interval from `low` to `high`, if there is one: `21 % (0–51)`.

    Value and interval have two significant digits, or as many as distinguish them; without an interval, the value has
    three. `signed` values have their sign.
    """
    scale, suffix, numbers = SHOWN_UNITS.get(unit, 1.0), _SUFFIXES.get(unit, ""), [value]
    if unit in {"bytes", "parameters"} and 1000 <= abs(value) < inf:
        step = min(int(log10(abs(value)) / 3), 4)
        scale, suffix = 1000.0**-step, f" {' kMGT'[step]}{'B' if unit == 'bytes' else ''}"
    half = abs(value) / 100
    if low is not None and high is not None:
        numbers, half = [value, low, high], (high - low) / 2
    largest = max(map(abs, numbers))
    smallest = scale * max(min(half, largest / 10), largest / 1000)
    digits = min(6, max(0, -floor(log10(smallest)))) if 0 < smallest < inf else 0
    diverged = scale * max((abs(number) for number in numbers if abs(number) < inf), default=0.0) >= _DIVERGED
    form = f"{'+' if signed else ''}{'.3g' if diverged else f',.{digits}f'}"
    shown, *ends = (f"{round(scale * number, digits) + 0.0:{form}}".replace("inf", "∞") for number in numbers)
    between = " to " if set("+-") & set("".join(ends)) else "–"
    return f"{shown}{suffix}{f' ({between.join(ends)})' if ends else ''}"


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it: `11 min`."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if (count := seconds / length) >= 1.5:
            return f"{count:.0f} {unit}" if count >= 9.95 else f"{count:.1f} {unit}"
    return f"{max(seconds, 1.0):.0f} s"
