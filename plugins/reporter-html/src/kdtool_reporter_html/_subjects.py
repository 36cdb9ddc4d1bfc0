"""Map measured subjects to arms and seeds, and arms to their titles on the page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import kdtool

__all__ = [
    "ARMS", "REFERENCE", "SAME_ROWS", "Measured", "Subjects",
    "arm_order", "arm_title", "is_teacher", "key_of", "name", "own_name", "title",
]  # fmt: skip

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
    def mean(self) -> float:
        """The mean over seeds."""
        return sum(measurement.value for measurement in self.by_seed.values()) / len(self.by_seed)


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
        return arm if self._roles.get(arm) == "artifact" else arm_title(arm)

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
    return re.sub(r"(?<!\w)(?:kl|gguf|mbpp|bleu)(?!\w)", lambda found: found[0].upper(), words)


def title(key: str) -> str:
    """Return the name of a measurement or key as a heading: "samples.distinct-words" gives "Samples: distinct words"."""
    words = re.sub(r"(?<=\w)\.(?=[^\W\d])", ": ", name(key))
    return words[:1].upper() + words[1:]
