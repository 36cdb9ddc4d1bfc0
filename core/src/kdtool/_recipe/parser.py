"""From composed layers to a `Recipe`: the core's own keys are checked here, all problems at once.

Component settings stay as they are; assembly validates them with the component's own `Config`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kdtool._contract.kind_table import TABLE
from kdtool._contract.loss_terms import Schedule
from kdtool._errors import Problem
from kdtool._recipe import layers
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, invalid, of_kind, problem_at
from kdtool._recipe.yaml import KeyPath
from kdtool._text.did_you_mean import did_you_mean
from kdtool._text.names import NAME, NO_NAME

_SHARED = (*layers.SOURCE_KEYS, *(kind.key for kind in TABLE if kind.scope == "run"))
TOP_KEYS = ("name", "seeds", "terms_acknowledged", *_SHARED, "trainer", "train", "control", "require")
_KIND_OF = {**layers.COLLECTIONS, **layers.SINGLE}
_SCHEDULE = TypeAdapter(Schedule)
_EXAMPLE = "a schedule such as {start: 1.0, end: 0.1}"
_LARGEST = 1e6
_MAP = "what has settings, or is there twice, stands in a mapping under a name of its own: `{NAME: {use: …}, …}`"


class Parser:
    """Walks the composed data, gathering problems; `read_control` uses it, too."""

    def __init__(self, empty: Recipe) -> None:
        self.empty = empty
        self.data = empty.data
        self.problems: list[Problem] = []

    @cached_property
    def shared(self) -> tuple[ComponentSpec, ...]:
        return tuple(spec for key in _SHARED for spec in self.components((key,)))

    @cached_property
    def default_trainer(self) -> ComponentSpec | None:
        return self._single(("trainer",))

    def _problem(self, key: KeyPath, message: str, remedy: str = "") -> None:
        self.problems.append(problem_at(self.empty, key, message, remedy))

    def require(self, holds: bool, key: KeyPath, message: str, remedy: str = "") -> bool:
        if not holds:
            self._problem(key, message, remedy)
        return holds

    def need(self, found: object, path: KeyPath, key: str) -> None:
        value = self._at((key,)) if self._at((*path, key)) is None else self._at((*path, key))
        entries = value.values() if isinstance(value, Mapping) and key in layers.COLLECTIONS else (value,)
        if not found and all(entry is None or entry is False for entry in entries):  # else it is there, and wrong
            word = layers.COLLECTIONS.get(key, key)
            remedy = f"add for example `{word}: {{use: …}}`; `kdtool plugins list` shows what there is"
            self._problem(path, f"names no {word}", remedy)

    def refuse_unknown(self, path: KeyPath, known: tuple[str, ...]) -> None:
        singulars = [layers.COLLECTIONS[name] for name in known if name in layers.COLLECTIONS]
        for key in self._at(path):
            hint = did_you_mean(key, [*known, *singulars], what="keys here", shown=20)
            self.require(key in known, (*path, key), "is no key here", hint)

    def name(self) -> str:
        name = self.data.get("name")
        name = self.empty.name if name is None or isinstance(name, bool) else str(name)
        self.require(NAME.fullmatch(name) is not None, ("name",), f"{name!r} {NO_NAME}")
        return name

    def seeds(self) -> tuple[int, ...]:
        seeds = self.data.get("seeds", [0])
        good = isinstance(seeds, list) and all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
        good = good and len(set(seeds)) == len(seeds) > 0
        self.require(good, ("seeds",), "is a list of different whole numbers from 0, such as [0, 1, 2]")
        return tuple(seeds) if good else (0,)

    def components(self, path: KeyPath) -> tuple[ComponentSpec, ...]:
        """Return the components of a key that holds one, or a map of them."""
        value = self._at(path)
        if path[-1] in layers.SINGLE or value is None or value is False:
            spec = self._single(path)
            return (spec,) if spec else ()
        if not self.require(isinstance(value, Mapping), path, "is a list of different names or a mapping", _MAP):
            return ()
        for name in value:
            self.require(NAME.fullmatch(name) is not None, (*path, name), NO_NAME)
        kind = layers.COLLECTIONS[str(path[-1])]
        found = [self._component((*path, name), entry, kind) for name, entry in value.items() if entry is not False]
        return tuple(spec for spec in found if spec is not None)

    def _single(self, path: KeyPath) -> ComponentSpec | None:
        value = self._at(path)
        return None if value is None or value is False else self._component(path, value)

    def _at(self, path: KeyPath) -> Any:
        value: Any = self.data
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def _component(self, path: KeyPath, value: Any, kind: str = "") -> ComponentSpec | None:
        """Return one component: of a collection's kind, under any name, or else of the kind that its key stands for."""
        message = f"is a mapping of settings or the name of a plugin, not {value!r}"
        if not self.require(isinstance(value, Mapping), path, message):
            return None
        name = str(path[-1])
        use, kind = value.get("use", name if kind not in {"", name} else None), kind or layers.SINGLE[name]
        good = isinstance(use, str) and 0 < len(use) <= 500 and "\0" not in use
        if not self.require(good, (*path, "use"), "names no plugin", "write `use: NAME`, or `use: ./file.py:Class`"):
            return None
        own: dict[str, Any] = {"share": value.get("share")} if kind == "corpus" else {}
        if kind == "loss":
            own = {"weight": self._weight((*path, "weight"), value.get("weight", 1.0))}
            own["teacher"] = self._teacher((*path, "teacher"), value.get("teacher"))
        if kind == "tracker":
            own = {"required": value.get("required", False)}
            self.require(isinstance(own["required"], bool), (*path, "required"), "is true or false")
        options = {key: option for key, option in value.items() if key != "use" and key not in own}
        return ComponentSpec(layers.as_written(path), name, kind, use, options, path, **own)

    def _weight(self, path: KeyPath, value: Any) -> float | Schedule:
        if isinstance(value, Mapping):
            try:
                return _SCHEDULE.validate_json(json.dumps(value), strict=True)
            except ValidationError as error:
                self.problems.extend(invalid(self.empty, path, "a schedule", Schedule.__annotations__, error))
        elif self.require(_is_weight(value), path, f"{value!r} is no weight: a number from 0, or {_EXAMPLE}"):
            return float(value)
        return 1.0

    def _teacher(self, path: KeyPath, value: Any) -> str | Mapping[str, float] | None:
        if value is None or isinstance(value, str):
            return value
        shares = {n: share for n, share in value.items() if share is not False} if isinstance(value, Mapping) else {}
        good = bool(shares) and all(_is_weight(share) and 0 < share <= _LARGEST for share in shares.values())
        self.require(good, path, "is a name, or names with shares above 0, such as {big: 0.7, small: 0.3}")
        return {name: share / sum(shares.values()) for name, share in shares.items()} if good else None

    def phases(self) -> tuple[PhaseSpec, ...]:
        train = self.data.get("train")
        good = isinstance(train, Mapping) and any(phase is not False for phase in train.values())
        if train is None or not self.require(good, ("train",), "is a phase, or phases that are not all off"):
            self.require(train is not None, (), "has no `train`", "add `train: {losses: {…}, steps: 100}`")
            return ()
        phases = [self._phase(("train", name), phase) for name, phase in train.items() if phase is not False]
        return tuple(phase for phase in phases if phase is not None)

    def _phase(self, path: KeyPath, phase: Any) -> PhaseSpec | None:
        name, keys = str(path[-1]), ("losses", "transforms", "weightings")
        remedy = "" if isinstance(phase, Mapping) else did_you_mean(name, layers.PHASE_KEYS, what="keys of a phase")
        good = isinstance(phase, Mapping) and NAME.fullmatch(name) is not None
        if not self.require(good, path, "is a phase: a mapping with losses and steps, under a plain name", remedy):
            return None
        self.refuse_unknown(path, layers.PHASE_KEYS)
        steps, trains = phase.get("steps"), phase.get("trains")
        good = type(steps) is int and 1 <= steps < 2**31
        self.require(good, (*path, "steps"), "is the number of optimiser steps, from 1")
        self.require(trains is None or isinstance(trains, str), (*path, "trains"), "is the name of a teacher")
        losses, transforms, weightings = (self.components((*path, key)) for key in keys)
        own_trainer = self.trainer((*path, "trainer"), self.default_trainer)
        sources = tuple(spec for key in layers.SOURCE_KEYS for spec in self._sources(path, key))
        self.need(losses, path, "losses")
        self.need(own_trainer, path, "trainer")
        self.need(of_kind(sources, "packer"), path, "rows")
        if self._at((*path, "corpora")) is not None:
            self.need(of_kind(sources, "corpus"), path, "corpora")
        return PhaseSpec(name, steps if good else 1, losses, transforms, weightings, own_trainer, sources, path, trains)

    def _sources(self, phase: KeyPath, key: str) -> tuple[ComponentSpec, ...]:
        """Return what a phase has of its own under a key, or else what the recipe has."""
        own = self._at((*phase, key)) is not None
        return self.components((*phase, key)) if own else of_kind(self.shared, _KIND_OF[key])

    def trainer(self, path: KeyPath, default: ComponentSpec | None) -> ComponentSpec | None:
        """Return a trainer with its own settings over the default's, where both use the same plugin."""
        value = self._at(path)
        if default is None or not isinstance(value, Mapping):
            return self._single(path) or default
        use = value.get("use", default.use)
        inherited = default.options if use == default.use else {}
        return self._component(path, {**inherited, **value, "use": use})


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
