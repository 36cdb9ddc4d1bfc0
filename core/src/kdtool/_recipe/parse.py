"""From composed data to a `Recipe`: the core's own keys are checked here, all problems at once.

Component settings stay as they are; assembly validates them with the component's own `Config`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdtool._contract.training import Schedule
from kdtool._errors import Problem, RecipeError
from kdtool._recipe.layers import COLLECTIONS, SINGLE, compose, read_layers, settings_layer
from kdtool._recipe.model import ARMS, ComponentSpec, ControlSpec, PhaseSpec, Recipe
from kdtool._recipe.yaml_text import Document, KeyPath, Place, as_written
from kdtool._suggest import did_you_mean

__all__ = ["CONTROL_KEYS", "PHASE_KEYS", "TOP_KEYS", "load_recipe"]

_PHASE_KINDS = ("losses", "transforms", "weightings")
PHASE_KEYS = ("losses", "steps", "trainer", "transforms", "weightings")
CONTROL_KEYS = ("match", "losses", "trainer")
_SHARED = (
    "corpora",
    "screens",
    "rows",
    "teachers",
    "signals",
    "student",
    "evaluators",
    "exporters",
    "trackers",
    "reporter",
)
TOP_KEYS = ("name", "seeds", "extends", *_SHARED, "trainer", "train", "control")
_KIND_OF = {**COLLECTIONS, **SINGLE}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def load_recipe(recipe: Path | Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Recipe:
    """Read, compose and check a recipe.

    Args:
        recipe: a file, or the same as a mapping.
        settings: key paths to values, laid over it (`--set`).

    Raises:
        RecipeError: with all that is wrong.
    """
    if isinstance(recipe, Mapping):
        layers = [Document(dict(recipe), {(key,): Place("recipe", 0, 0, Path.cwd()) for key in recipe})]
        default_name = "run"
    else:
        layers = read_layers(recipe)
        default_name = recipe.stem
    return _Parser(compose([*layers, settings_layer(settings or {})]), default_name).recipe()


class _Parser:
    """Walks the composed document, gathering problems."""

    def __init__(self, document: Document, default_name: str) -> None:
        self.data = document.data
        self.places = document.places
        self.default_name = default_name
        self.problems: list[Problem] = []

    def recipe(self) -> Recipe:
        self._refuse_unknown(self.data, TOP_KEYS, ())
        trainer = self._single(("trainer",))
        phases = self._phases(self.data.get("train"), trainer)
        shared = [spec for key in _SHARED for spec in self._components(key)]
        recipe = Recipe(
            name=self._name(),
            seeds=self._seeds(),
            shared=tuple(shared),
            phases=phases,
            control=self._control(trainer),
            data=self.data,
            places=self.places,
        )
        for key, kind in (("corpus", "corpus"), ("student", "student"), ("rows", "packer")):
            if not recipe.of_kind(kind) and not self.problems:
                self._problem(
                    (),
                    f"names no {key}",
                    f"add for example `{key}: {{use: …}}`; `kdtool plugins list` shows what there is",
                )
        if self.problems:
            raise RecipeError(self.problems)
        return recipe

    def _problem(self, key: KeyPath, message: str, remedy: str = "") -> None:
        place = next((self.places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.places), None)
        file, line, column = (place.file, place.line, place.column) if place else ("", 0, 0)
        problem = Problem(as_written(key), message, file, line, column, remedy)
        if problem not in self.problems:  # a control's phases are read from the same places
            self.problems.append(problem)

    def _refuse_unknown(self, data: Mapping[str, Any], known: tuple[str, ...], path: KeyPath) -> None:
        for key in data:
            if key not in known:
                singulars = [COLLECTIONS[name] for name in known if name in COLLECTIONS]
                self._problem(
                    (*path, key), "is no key here", did_you_mean(key, [*known, *singulars], what="keys here", shown=20)
                )

    def _name(self) -> str:
        name = self.data.get("name", self.default_name)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            self._problem(("name",), f"{name!r} is no name: letters, digits, - and _, at most 64 characters")
            return "run"
        return name

    def _seeds(self) -> tuple[int, ...]:
        seeds = self.data.get("seeds", [0])
        if (
            not isinstance(seeds, list)
            or not seeds
            or not all(_is_integer(seed) and 0 <= seed < 2**31 for seed in seeds)
        ):
            self._problem(("seeds",), "is a list of whole numbers from 0, such as [0, 1, 2]")
            return (0,)
        if len(set(seeds)) < len(seeds):
            self._problem(("seeds",), "has a seed twice")
        return tuple(seeds)

    def _components(self, key: str) -> list[ComponentSpec]:
        if key in SINGLE:
            spec = self._single((key,))
            return [spec] if spec else []
        return self._collection((key,))

    def _single(self, path: KeyPath) -> ComponentSpec | None:
        value = self._at(path)
        return None if value is None or value is False else self._component(path, value, str(path[-1]))

    def _collection(self, path: KeyPath) -> list[ComponentSpec]:
        value = self._at(path)
        if value is None or value is False:
            return []
        if not isinstance(value, Mapping):
            self._problem(path, "is a mapping of names to settings")
            return []
        found = []
        for name, entry in value.items():
            if not _NAME.fullmatch(name):
                self._problem((*path, name), "is no name: letters, digits, - and _")
            elif entry is not False and (spec := self._component((*path, name), entry, name)):
                found.append(spec)
        return found

    def _at(self, path: KeyPath) -> Any:
        value: Any = self.data
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def _component(self, path: KeyPath, value: Any, name: str) -> ComponentSpec | None:
        value = {} if value is None or value is True else {"use": value} if isinstance(value, str) else value
        if not isinstance(value, Mapping):
            self._problem(path, f"is a mapping of settings or the name of a plugin, not {value!r}")
            return None
        section = str(path[-1]) if path[-1] in SINGLE else str(path[-2])
        kind = _KIND_OF[section]
        use = value.get("use", None if section in SINGLE or name == kind else name)
        if not isinstance(use, str) or not use or len(use) > 500 or "\0" in use:
            self._problem(
                (*path, "use") if "use" in value else path,
                "names no plugin",
                "write `use: NAME`, or `use: ./file.py:Class`",
            )
            return None
        own: dict[str, Any] = {}
        if kind == "loss":
            own["weight"] = self._weight((*path, "weight"), value.get("weight", 1.0))
            own["teacher"] = self._text((*path, "teacher"), value.get("teacher"))
        if kind == "tracker":
            own["required"] = self._flag((*path, "required"), value.get("required", False))
        options = {key: option for key, option in value.items() if key != "use" and key not in own}
        return ComponentSpec(as_written(path), name, kind, use, options, path, **own)

    def _text(self, path: KeyPath, value: Any) -> str | None:
        if value is not None and not isinstance(value, str):
            self._problem(path, "is a name")
            return None
        return value

    def _flag(self, path: KeyPath, value: Any) -> bool:
        if not isinstance(value, bool):
            self._problem(path, "is true or false")
        return value is True

    def _weight(self, path: KeyPath, value: Any) -> float | Schedule:
        if _is_number(value) and 0 <= value < float("inf"):
            return float(value)
        if isinstance(value, Mapping):
            return self._schedule(path, value)
        self._problem(path, f"{value!r} is no weight: a number from 0, or a schedule such as {{start: 1.0, end: 0.1}}")
        return 1.0

    def _schedule(self, path: KeyPath, value: Mapping[str, Any]) -> Schedule:
        self._refuse_unknown(value, ("start", "end", "begin", "until", "shape"), path)
        ends: list[Any] = [value.get("start"), value.get("end")]
        for key, number in zip(("start", "end"), ends, strict=True):
            if not (_is_number(number) and 0 <= number < float("inf")):
                self._problem((*path, key), "is a number from 0")
        shares = [value.get("begin", 0.0), value.get("until", 1.0)]
        if not (all(map(_is_number, shares)) and 0 <= shares[0] < shares[1] <= 1):
            self._problem(path, "needs 0 <= begin < until <= 1, as shares of the phase")
        shape = value.get("shape", "linear")
        if shape not in {"linear", "cosine", "step"}:
            self._problem((*path, "shape"), f"{shape!r} is none of linear, cosine, step")
            shape = "linear"
        start, end, begin, until = (float(number) if _is_number(number) else 0.0 for number in (*ends, *shares))
        return Schedule(start, end, begin, until, shape)

    def _phases(self, value: Any, trainer: ComponentSpec | None) -> tuple[PhaseSpec, ...]:
        if not isinstance(value, Mapping) or not value:
            self._problem(("train",), "is missing", "add `train: {losses: {…}, steps: 100}`")
            return ()
        phases = [self._phase(name, phase, trainer) for name, phase in value.items() if phase is not False]
        return tuple(phase for phase in phases if phase is not None)

    def _phase(self, name: str, phase: Any, trainer: ComponentSpec | None) -> PhaseSpec | None:
        path: KeyPath = ("train", name)
        if not isinstance(phase, Mapping) or not _NAME.fullmatch(name):
            self._problem(path, "is a phase: a mapping with losses and steps, under a plain name")
            return None
        self._refuse_unknown(phase, PHASE_KEYS, path)
        steps: Any = phase.get("steps")
        if not _is_integer(steps) or steps < 1:
            self._problem((*path, "steps"), "is the number of optimiser steps, from 1")
            steps = 1
        losses, transforms, weightings = (tuple(self._collection((*path, key))) for key in _PHASE_KINDS)
        if not losses and not self.problems:
            self._problem(path, "has no losses", "add `losses: {ce: {}}` or others")
        own_trainer = self._phase_trainer((*path, "trainer"), trainer)
        if own_trainer is None and not self.problems:
            self._problem(path, "has no trainer", "add `trainer: {use: …}` to the recipe or to the phase")
        return PhaseSpec(name, steps, losses, transforms, weightings, own_trainer, path)

    def _phase_trainer(self, path: KeyPath, default: ComponentSpec | None) -> ComponentSpec | None:
        """Return the phase's trainer: its own settings over the recipe's where both use the same plugin."""
        value = self._at(path)
        if value is None or default is None:
            return self._single(path) or default
        use = value.get("use", default.use) if isinstance(value, Mapping) else default.use
        inherited = default.options if use == default.use else {}
        own = value if isinstance(value, Mapping) else {}
        return self._component(path, {**inherited, **own, "use": use}, "trainer")

    def _control(self, trainer: ComponentSpec | None) -> ControlSpec | None:
        value = self.data.get("control")
        if value is None or value is False:
            return None
        value = {} if value is True else {"match": value} if isinstance(value, str | list) else value
        if not isinstance(value, Mapping):
            self._problem(("control",), "is a mapping such as {match: tokens}")
            return None
        self._refuse_unknown(value, CONTROL_KEYS, ("control",))
        match = value.get("match", "tokens")
        match = [match] if isinstance(match, str) else match
        if not isinstance(match, list) or not match or not all(item in ARMS for item in match if isinstance(item, str)):
            self._problem(("control", "match"), f"is one or more of {', '.join(ARMS)}")
            return None
        if "time" in match and "tokens" not in match:
            self._problem(
                ("control", "match"), "time needs tokens too: its speed decides how many steps the time is worth"
            )
        losses = tuple(self._collection(("control", "losses")))
        train: Any = self.data.get("train")
        names = list(train) if isinstance(train, Mapping) else []
        phases = [phase for name in names if (phase := self._phase(name, train[name], trainer)) is not None]
        replaced = [
            replace(phase, losses=losses or phase.losses, trainer=self._control_trainer(phase, alone=len(phases) == 1))
            for phase in phases
        ]
        return ControlSpec(tuple(key for key in ARMS if key in match), bool(losses), tuple(replaced))

    def _control_trainer(self, phase: PhaseSpec, *, alone: bool) -> ComponentSpec | None:
        """Return the trainer of a control's phase: the control's settings over the phase's own."""
        spec = self._phase_trainer(("control", "trainer"), phase.trainer)
        if spec is None or alone or spec == phase.trainer:
            return spec
        return replace(spec, path=f"control.{phase.name}.trainer", key=("control", phase.name, "trainer"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
