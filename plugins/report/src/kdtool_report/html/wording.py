"""Wording of the page: subjects with their arms and seeds, titles of arms and measurements, and formatted numbers.

Every section uses them. Numbers have significant digits, a non-breaking space before the unit, and a real minus sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from math import floor, isfinite, isnan, log10

import kdtool

REFERENCE = "reference"
"""An existing model that the run only measured."""
SAME_ROWS = "control-rows"
"""The page's name for a control that did not train on as many tokens as the student."""
ARMS = {
    "teacher": "Teacher",
    "student": "Student",
    "control": "Control, equal tokens",
    SAME_ROWS: "Control, same rows",
    "control-time": "Control, equal time",
    "control-self": "Self-distilled, equal tokens",
    "control-self-time": "Self-distilled, equal time",
    REFERENCE: "Reference",
    "base": "Student before training",
}
"""The arms of a run, in the order of columns."""
_UNADAPTED = ".unadapted"
"""Suffix for the original weights of a teacher that the run fine-tuned."""


@dataclass(frozen=True)
class Measured:
    """All measurements of one name in one arm, by seed in ascending order (-1 if there is no seed).

    `bounds` are the 95 % interval of their mean, over items and seeds; None if there is none.
    """

    by_seed: dict[int, kdtool.Measurement]
    bounds: tuple[float, float] | None = None

    @property
    def first(self) -> kdtool.Measurement:
        """The measurement of the first seed."""
        return next(iter(self.by_seed.values()))

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return sum(measurement.value for measurement in self.by_seed.values()) / len(self.by_seed)


Grouped = Mapping[str, Mapping[str, Measured]]
"""Measurements by name, then arm."""


@dataclass(frozen=True)
class Subjects:
    """The subjects that a run measured, and the values of their arms.

    Any other name is an arm by itself, without seed and role.
    """

    found: Sequence[kdtool.Subject]
    values: Sequence[kdtool.ArmValue] = ()

    @cached_property
    def _by_name(self) -> dict[str, kdtool.Subject]:
        return {subject.name: subject for subject in self.found}

    @cached_property
    def _bounds(self) -> dict[tuple[str, str], tuple[float, float]]:
        return {
            (value.measurement, value.arm): (value.low, value.high)
            for value in self.values
            if value.low is not None and value.high is not None
        }

    @cached_property
    def _roles(self) -> dict[str, str]:
        return {subject.arm or subject.name: subject.role for subject in self.found}

    def of(self, subject: str) -> tuple[str, int]:
        """Return a subject's arm and its seed, -1 for none."""
        found = self._by_name.get(subject)
        if found is None:
            return subject, -1
        return found.arm or subject, -1 if found.seed is None else found.seed

    def is_trained(self, arm: str) -> bool:
        """Return whether the run trained an arm, as student or control."""
        return self._roles.get(arm) in {"student", "control"}

    def is_exported(self, arm: str) -> bool:
        """Return whether the run exported an arm, as opposed to a file that was passed in for measurement."""
        return self._roles.get(arm) == "artifact" and self.is_trained("student")

    def title(self, arm: str) -> str:
        """Return an arm's display name."""
        if self.is_exported(arm):
            return f"Exported: {arm.removeprefix('student-')}"
        named = self._roles.get(arm, "artifact") == "artifact"  # a run or model has its own name, even "base"
        return arm if named else arm_title(arm)

    def gather(self, measurements: Iterable[kdtool.Measurement]) -> dict[str, dict[str, Measured]]:
        """Group measurements by name, then arm, both in their original order."""
        grouped: dict[str, dict[str, dict[int, kdtool.Measurement]]] = {}
        for measurement in measurements:
            arm, seed = self.of(measurement.subject)
            grouped.setdefault(measurement.name, {}).setdefault(arm, {})[seed] = measurement
        return {
            measurement: {
                arm: Measured(dict(sorted(seeds.items())), self._bounds.get((measurement, arm)))
                for arm, seeds in arms.items()
            }
            for measurement, arms in grouped.items()
        }


def arm_order(arms: Iterable[str]) -> list[str]:
    """Sort arms: teachers (fine-tuned and original), student, its controls, then all else by name."""
    known = list(ARMS)

    def place(arm: str) -> int:
        if is_teacher(arm):
            return 0
        return known.index(arm) if arm in known else len(known)

    return sorted(set(arms), key=lambda arm: (place(arm), arm))


def is_teacher(arm: str) -> bool:
    """Return whether an arm is a teacher, fine-tuned or original."""
    return arm.startswith("teachers.") or arm.removesuffix(_UNADAPTED) == "teacher"


def arm_title(arm: str) -> str:
    """Return the display name of a trained arm or a teacher."""
    before = arm.removesuffix(_UNADAPTED)
    return ARMS.get(arm, arm) if before == arm else f"{ARMS.get(before, before)}, unadapted"


def own_name(key: str) -> str:
    """Return a measurement's name without the evaluator's, which disambiguates equal names."""
    return key.rpartition(".")[2]


def key_of(grouped: Mapping[str, object], own: str) -> str:
    """Return the key whose own name is `own`; `own` itself if there is none."""
    return next((key for key in grouped if own_name(key) == own), own)


def name(key: str) -> str:
    """Return the name of a measurement or key within a sentence: "kl-to-teacher" gives "KL to teacher"."""
    words = re.sub(r"(?<=\w)[-_](?=[^\W\d])", " ", key)
    return re.sub(r"(?<!\w)(?:kl|gguf|mbpp)(?!\w)", lambda found: found[0].upper(), words)


def title(key: str) -> str:
    """Return the name of a measurement or key as a heading: "samples.distinct-words" gives "Samples: distinct words"."""
    words = re.sub(r"(?<=\w)\.(?=[^\W\d])", ": ", name(key))
    return words[:1].upper() + words[1:]


SPACE = "\u00a0"
_BYTES = ("B", "kB", "MB", "GB", "TB")
_COUNTS = ("", "k", "M", "G", "T")


def quantity(value: float, unit: str, *, spread: float | None = None) -> str:
    """Return a value with its unit; `spread`, the half-width of an interval, sets the number of decimals."""
    if not isfinite(value):
        return _endless(value)
    if unit == "bytes":
        return _with_prefix(value, _BYTES)
    if unit in {"parameters", "tokens"}:
        return _with_prefix(value, _COUNTS)
    if unit in {"s", "seconds"}:
        return duration(value)
    if unit == "fraction":
        return percent(value, spread=spread)
    if unit in {"%", "percent"}:
        return percent(value / 100, spread=None if spread is None else spread / 100)
    return _digits(value, decimals(value, spread))


def interval(low: float, high: float, unit: str) -> str:
    """Return "low to high", both with the decimals that the width justifies."""
    half = (high - low) / 2
    return span(quantity(low, unit, spread=half), quantity(high, unit, spread=half))


def span(low: str, high: str) -> str:
    """Join two formatted values as "low to high"; a common unit appears once."""
    number, _, unit = low.partition(SPACE)
    return f"{number if unit and unit == high.partition(SPACE)[2] else low} to {high}"


def tick(text: str) -> str:
    """Strip trailing zeros off a formatted number for an axis tick: "+20.0 %" gives "+20 %"."""
    number, space, unit = text.partition(SPACE)
    number, power, exponent = number.partition("e")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + power + exponent + space + unit


def difference(value: float, unit: str, *, relative: bool, spread: float | None = None) -> str:
    """Return a signed difference: a relative one in percent, one of fractions in percentage points."""
    scale, suffix = 1.0, ""
    if relative:
        scale, suffix = 100.0, f"{SPACE}%"
    elif unit == "fraction":
        scale, suffix = 100.0, f"{SPACE}points"
    elif unit in {"%", "percent"}:
        suffix = f"{SPACE}points"
    scaled = value * scale
    if not isfinite(scaled):
        return f"+{_endless(scaled)}" if scaled > 0 else _endless(scaled)
    text = _digits(scaled, decimals(scaled, None if spread is None else spread * scale)) + suffix
    return text if text.startswith("−") or not scaled else f"+{text}"


def percent(fraction: float, *, spread: float | None = None) -> str:
    """Return a fraction as a percentage."""
    digits = decimals(fraction * 100, spread * 100) if spread else 1
    return f"{_digits(fraction * 100, min(digits, 2))}{SPACE}%"


def count(value: float) -> str:
    """Return a count: exact with thin spaces below a million, else in millions and more."""
    if abs(value) >= 1_000_000:
        return _with_prefix(value, _COUNTS)
    return f"{value:,.0f}".replace(",", "\u202f")


def money(picodollars: int) -> str:
    """Return an amount in dollars: cents from a dollar on, three significant digits below."""
    dollars = Decimal(picodollars).scaleb(-12)
    places = 2 if dollars >= 1 or not dollars else max(2, 2 - dollars.adjusted())
    return f"${dollars:,.{places}f}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """Return a span of time in the unit that suits it."""
    if seconds < 0.0995:
        return f"{_digits(seconds * 1000, decimals(seconds * 1000, None))}{SPACE}ms"
    if seconds < 99.5:
        return f"{_digits(seconds, decimals(seconds, None))}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}{SPACE}min {rest:02d}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60:02d}{SPACE}min"


def times(ratio: float) -> str:
    """Return a ratio as "2.6 ×"."""
    return f"{_digits(ratio, decimals(ratio, None))}{SPACE}×"


def decimals(value: float, spread: float | None) -> int:
    """Return the number of decimals to show: two digits of the spread if there is one, else three significant digits."""
    if spread is not None and isfinite(spread) and spread > 0:
        return min(4, max(0, 1 - floor(log10(spread))))
    if not value or not isfinite(value):
        return 0
    rounded = float(f"{abs(value):.3g}")
    return min(6, max(0, 2 - floor(log10(rounded))))


def _with_prefix(value: float, prefixes: tuple[str, ...]) -> str:
    step = 0
    while abs(value) >= 999.5 and step < len(prefixes) - 1:
        value, step = value / 1000, step + 1
    digits = 0 if step == 0 else decimals(value, None)
    return f"{_digits(value, digits)}{SPACE}{prefixes[step]}".rstrip(SPACE)


def _endless(value: float) -> str:
    return "not a number" if isnan(value) else "∞" if value > 0 else "−∞"


def _digits(value: float, places: int) -> str:
    if abs(value) >= 1e9:
        return f"{value:.2e}".replace("-", "−")
    text = f"{value:,.{places}f}".replace(",", "\u202f")
    if text.startswith("-"):
        return "−" + text[1:] if any(digit in text for digit in "123456789") else text[1:]
    return text
