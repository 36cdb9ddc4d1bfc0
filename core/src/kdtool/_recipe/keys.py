"""The core's own keys of a recipe and its sections: their types, for the parser and for `kdtool schema`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, WrapValidator

from kdtool._contract.component import Config
from kdtool._contract.loss_terms import Schedule
from kdtool._recipe.model import ARMS
from kdtool._text.names import NAME, VALID_NAME

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


class PhaseKeys(Config):
    """Keys of a phase."""

    steps: Annotated[int, Field(ge=1, le=10**9)]
    """Optimiser steps."""
    trains: Annotated[str | None, _expect("the name of a teacher")] = None
    """The teacher that this phase trains; the student if it is left out."""


_Arm = Literal["tokens", "time"]


class ControlKeys(Config, validate_default=True):
    """Keys of the control."""

    match: Annotated[
        _Arm | list[_Arm],
        AfterValidator(_name_arms),
        _expect("`tokens` or `[tokens, time]`"),
    ] = "tokens"
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
