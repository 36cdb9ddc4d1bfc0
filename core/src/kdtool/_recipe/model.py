"""The typed recipe, with the place of each component, and the types of the core's own keys.

The keys and their sections are for the parser and for `kdtool schema`. No plugin is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, WrapValidator

from kdtool._contract.component import Config
from kdtool._contract.run_info import Schedule
from kdtool._errors import Problem
from kdtool._recipe.layers import as_written
from kdtool._recipe.yaml import KeyPath, Place
from kdtool._text.names import NAME, VALID_NAME

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
    `given` are the arguments of `load_recipe`, with which another process reads the same. `problems` are mistakes that
    were found so far; `assemble` adds those of components and raises all. `notes` are lines for the user, which it shows.
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
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

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


_Off = Literal[False] | None


def _expect(expected: str) -> WrapValidator:
    """Return a validator that reports all that is wrong with a value in these words."""

    def validate(value: Any, check: Callable[[Any], Any]) -> Any:
        try:
            return check(value)
        except ValidationError:
            raise ValueError(f"must be {expected}") from None

    return WrapValidator(validate)


def _normalise(teacher: str | Mapping[str, float] | None) -> Mapping[str, float]:
    """Return shares that sum to 1, without those that are off."""
    given = {teacher: 1.0} if isinstance(teacher, str) else teacher or {}
    shares = {name: share for name, share in given.items() if share is not False}
    if given and not shares:
        raise ValueError("all shares are off")
    return {name: share / sum(shares.values()) for name, share in shares.items()}


def _name_arms(match: str | list[str]) -> tuple[str, ...]:
    arms = tuple(key for key in ARMS if key in ([match] if isinstance(match, str) else match))
    if "tokens" not in arms:
        raise ValueError("tokens are missing")
    return arms


def _refuse_twice(seeds: list[int]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("duplicate seed")
    return tuple(seeds)


def _as_name(name: str | float | None) -> str | None:
    if name is None or isinstance(name, bool):
        return None
    if not NAME.fullmatch(str(name)):
        raise ValueError("other characters")
    return str(name)


def acknowledgements(value: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield components with licences, for both ways to write `teachers.big`: as a key, and as maps in each other.

    Raises:
        ValueError: a licence is not text.
    """
    for key, entry in (value or {}).items():
        if isinstance(entry, Mapping):
            yield from acknowledgements(entry, f"{before}{key}.")
        elif isinstance(entry, str):
            yield f"{before}{key}", entry
        elif entry is not False:  # which switches off an entry of a recipe below
            raise ValueError("not a licence")


class Claim(Config):
    """A published figure of the model that a recipe rebuilds."""

    measurement: str
    """The name that `kdtool show` prints, such as `humaneval.pass@1`."""
    value: float
    """The figure, in the unit of the measurement: a fraction, bytes, tokens per second."""
    source: str
    """The place of its publication."""
    arm: str = "student"
    """The model that it is about, such as `student-gguf`."""


class RecipeKeys(Config):
    """Keys of a recipe other than components."""

    name: Annotated[
        str | int | float | bool | None,
        Field(json_schema_extra={"pattern": f"^{NAME.pattern}$"}),
        AfterValidator(_as_name),
        _expect(VALID_NAME),
    ] = None
    """Name of the run's folder; that of the recipe's file if it is left out."""
    seeds: Annotated[
        list[Annotated[int, Field(ge=0, lt=2**31)]],
        Field(min_length=1, max_length=1000, json_schema_extra={"uniqueItems": True}),
        AfterValidator(_refuse_twice),
        _expect("a list of at most 1,000 different whole numbers of at least 0, such as [0, 1, 2]"),
    ] = (0,)  # type: ignore[assignment]
    """Seeds; each arm is trained once with each."""
    extends: str | None = None
    """A recipe that this one changes, relative to this file."""
    terms_acknowledged: Annotated[
        dict[str, Any] | _Off,
        AfterValidator(lambda value: dict(acknowledgements(value))),
        _expect('a mapping of components to licences, such as {teacher: "Apache-2.0"}'),
    ] = None
    """Licences that are read and agreed to, by component."""
    require: Annotated[
        dict[str, Any] | _Off,
        _expect('a mapping of measurements to conditions, such as {EVALUATOR.MEASUREMENT: ">= 0.70"}'),
    ] = None
    """Targets of the student: EVALUATOR.MEASUREMENT to a condition such as '>= 0.70'."""
    claims: Annotated[
        list[Claim] | _Off,
        _expect('a list of figures, such as [{measurement: EVALUATOR.pass@1, value: 0.423, source: "the paper"}]'),
    ] = None
    """Published figures, which `kdtool claims` and the report compare with the run's own."""


class PhaseKeys(Config):
    """Keys of a phase."""

    steps: Annotated[int, Field(ge=1, le=10**9)]
    """Optimiser steps."""
    trains: Annotated[str | None, _expect("the name of a teacher")] = None
    """The teacher that this phase trains; the student if it is left out."""


_Arm = Literal["tokens", "time"]


class ControlKeys(Config, validate_default=True):
    """Keys of the control."""

    match: Annotated[_Arm | list[_Arm], AfterValidator(_name_arms), _expect("`tokens` or `[tokens, time]`")] = "tokens"
    """Quantities that a control and the student have in common; one control is trained for each."""


class CorpusKeys(Config):
    """Keys of a corpus."""

    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the text to learn from, in bytes, if several corpora are mixed; all of them sum to 1."""


class LossKeys(Config, validate_default=True):
    """Keys of a loss."""

    weight: Annotated[
        Annotated[float, Field(ge=0)] | Schedule,
        _expect(
            "a number of at least 0, or a schedule such as {start: 1.0, end: 0.1, begin: 0.2, until: 0.8, shape: cosine}"
        ),
    ] = 1.0
    """Weight of the term: a number, or a schedule over the phase."""
    teacher: Annotated[
        str | Annotated[dict[str, Annotated[float, Field(gt=0, le=1e6)] | Literal[False]], Field(min_length=1)] | None,
        AfterValidator(_normalise),
        _expect("a name, or names with shares above 0, such as {big: 0.7, small: 0.3}"),
    ] = None
    """The teacher that it learns from; or several with their shares, whose probabilities are mixed."""


class TrackerKeys(Config):
    """Keys of a tracker."""

    required: bool = False
    """If true, its failure stops the run."""


COMPONENT_KEYS: Mapping[str, type[Config]] = {"corpus": CorpusKeys, "loss": LossKeys, "tracker": TrackerKeys}
"""The core's own keys of components, by kind."""
