"""The typed recipe, with the place of each component, before any plugin is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdtool._contract.loss_terms import Schedule
from kdtool._errors import Problem
from kdtool._recipe.layers import as_written
from kdtool._recipe.yaml import KeyPath, Place

ARMS: Mapping[str, str] = {"tokens": "control", "time": "control-time"}
"""The control arm for each thing that `control: {match: …}` can hold equal."""
SELF: Mapping[str, str] = {"control": "control-self", "control-time": "control-self-time"}
"""The arm with the same match that trains on the untrained student's samples, with `control: {self: …}`."""
REFERENCE = "reference"
"""The recipe's key for an existing model to compare with, and the name of its arm."""


@dataclass(frozen=True)
class ComponentSpec:
    """A component of the recipe: its short name, its key path as the user writes it, and the options for its `Config`.

    `key` is the composed document's path, which leads to places. `teacher` holds the teachers that a loss names, with
    shares that sum to 1. `share` is a corpus's, None if it is taken whole.
    """

    path: str
    name: str
    kind: str
    use: str
    options: Mapping[str, Any]
    key: KeyPath
    weight: float | Schedule = 1.0
    teacher: Mapping[str, float] = field(default_factory=dict)
    required: bool = False
    share: float | None = None


def of_kind(specs: Iterable[ComponentSpec], kind: str) -> tuple[ComponentSpec, ...]:
    """Return the components of a kind, in recipe order."""
    return tuple(spec for spec in specs if spec.kind == kind)


@dataclass(frozen=True)
class PhaseSpec:
    """A phase of training as the recipe gives it. `sources` give it data and signals: its own, or else the recipe's.

    `trains` names the teacher that it trains, as it was written; None for the student.
    """

    name: str
    steps: int
    losses: tuple[ComponentSpec, ...]
    transforms: tuple[ComponentSpec, ...]
    weightings: tuple[ComponentSpec, ...]
    trainer: ComponentSpec | None
    optimizer: ComponentSpec | None
    sources: tuple[ComponentSpec, ...]
    key: KeyPath
    trains: str | None = None

    @property
    def components(self) -> tuple[ComponentSpec, ...]:
        """The components that train; each scope gets fresh ones."""
        single = tuple(spec for spec in (self.trainer, self.optimizer) if spec)
        return (*self.losses, *self.transforms, *self.weightings, *single)


@dataclass(frozen=True)
class ControlSpec:
    """The same student without the teacher: arms to run, and the phases they train with.

    `own` is the corpus that samples from the untrained student, None without such arms.
    """

    match: tuple[str, ...]
    losses_given: bool
    phases: tuple[PhaseSpec, ...]
    own: ComponentSpec | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms by name, those that train on text first."""
        plain = tuple(ARMS[match] for match in self.match)
        return (*plain, *(SELF[arm] for arm in plain if self.own))


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. `shared` holds the components outside the phases, in the order of the table of kinds.

    `reference` is an existing model that is only measured, with the role of a teacher that nothing learns from.
    `given` are the arguments of `load_recipe`, with which another process reads the same.
    """

    name: str
    seeds: tuple[int, ...]
    shared: tuple[ComponentSpec, ...]
    phases: tuple[PhaseSpec, ...]
    control: ControlSpec | None
    data: Mapping[str, Any]
    places: Mapping[KeyPath, Place] = field(repr=False)
    reference: ComponentSpec | None = None
    given: tuple[Any, Mapping[str, Any]] = field(default=({}, {}), repr=False)

    @property
    def lasting(self) -> tuple[ComponentSpec, ...]:
        """The components that live as long as the run: shared, the phases' own sources, and those of comparisons."""
        own = {spec.key: spec for phase in self.phases for spec in phase.sources}
        compared = (self.control.own if self.control else None, self.reference)
        return (*({spec.key: spec for spec in self.shared} | own).values(), *filter(None, compared))

    def place(self, key: KeyPath) -> Place | None:
        """Return the place of a key, or of the nearest one above it."""
        for depth in range(len(key), 0, -1):
            if key[:depth] in self.places:
                return self.places[key[:depth]]
        return None


def problem_at(recipe: Recipe, key: KeyPath, message: str, remedy: str = "") -> Problem:
    """Return a problem of a key, at the place of the key or the nearest one above it."""
    place = recipe.place(key) or Place("", 0, 0, Path())
    return place.problem(as_written(key), message, remedy)
