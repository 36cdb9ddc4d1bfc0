"""From a file, a mapping or composed layers to a `Recipe`: the core's own keys are checked here, all problems at once.

Settings of components stay as they are; assembly validates them with the component's own `Config`, and `invalid` states
their mistakes in the recipe's words: the values that a setting's JSON Schema allows, and the one found instead.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdtool._contract.component import Config
from kdtool._contract.kind_table import TABLE
from kdtool._errors import Problem, RecipeError
from kdtool._plugins.registry import default_of
from kdtool._recipe import layers
from kdtool._recipe.layers import COLLECTIONS, PHASE_KEYS, SHARED_KEYS, SINGLE, SOURCE_KEYS, TOP_KEYS, as_written
from kdtool._recipe.model import (
    COMPONENT_KEYS,
    REFERENCE,
    ComponentSpec,
    ControlKeys,
    ControlSpec,
    PhaseKeys,
    PhaseSpec,
    Recipe,
    RecipeKeys,
    of_kind,
    problem_at,
)
from kdtool._recipe.yaml import KeyPath, Place, as_node
from kdtool._text.names import NAME, VALID_NAME, did_you_mean, name_from, show_value
from kdtool._text.names import describe_schema as describe
from kdtool._text.names import resolve_schema as resolve

CONTROL_KEYS = ("match", "losses", "trainer", "self")
LARGEST = 2**53 - 1
"""Largest whole number among settings: larger ones are not exact in JSON, and overflow as sizes of tensors."""


class Parser:
    """Reads a recipe's composed data and gathers problems; `shared` and `reference` are outside the phases."""

    def __init__(self, empty: Recipe) -> None:
        self.empty = empty
        self.data = {**_defaults(empty.data), **empty.data}
        self.problems: list[Problem] = []
        self.shared = tuple(spec for key in SHARED_KEYS for spec in self.components((key,)))
        self.reference = self._first((REFERENCE,))

    def recipe(self) -> Recipe:
        """Return the whole recipe, with all that is wrong among its `problems`."""
        self.refuse_unknown((), TOP_KEYS)
        core_keys, phases = self._own_keys((), RecipeKeys), self._phases()
        control = self._control(tuple(phase for phase in phases if phase.trains is None))
        for key in ("corpora", "student", *(() if phases else ("rows", "trainer"))):
            self._need((), key)
        return replace(
            self.empty,
            name=core_keys["name"] or self.empty.name,
            seeds=core_keys["seeds"],
            shared=self.shared,
            phases=phases,
            control=control,
            reference=self.reference,
            problems=tuple(dict.fromkeys(self.problems)),
        )

    def refuse_unknown(self, path: KeyPath, known: tuple[str, ...]) -> None:
        """Add a problem for each unknown key of a section."""
        singulars = [COLLECTIONS[name] for name in known if name in COLLECTIONS]
        for key in self._at(path):
            hint = did_you_mean(key, [*known, *singulars], what="keys here", shown=20)
            self._require(key in known, (*path, key), "unknown key", hint)

    def components(self, path: KeyPath) -> tuple[ComponentSpec, ...]:
        """Return the components of a key that holds one, or a map of them."""
        key, value = str(path[-1]), self._at(path)
        if value is None or value is False:
            return ()
        if key in SINGLE:
            specs = [self._component(path, value, SINGLE[key])]
        elif self._require(
            isinstance(value, Mapping),
            path,
            f"must be a list of different names or a mapping, not {show_value(value)}",
            f"write `{key}: [{value if isinstance(value, str) and NAME.fullmatch(value) else 'NAME, …'}]`; or, for a "
            "component that has settings or is used twice, `{NAME: {use: …}, …}`",
        ):
            entries = {name: entry for name, entry in value.items() if entry is not False}
            specs = [self._component((*path, name), entry, COLLECTIONS[key]) for name, entry in entries.items()]
        else:
            specs = []
        return tuple(spec for spec in specs if spec is not None)

    def _component(self, path: KeyPath, value: Any, kind: str) -> ComponentSpec | None:
        name = str(path[-1])
        message = f"must be a mapping of settings or the name of a plugin, not {show_value(value)}"
        self._require(NAME.fullmatch(name) is not None, path, f"must be {VALID_NAME}")
        if not self._require(isinstance(value, Mapping), path, message):
            return None
        # An entry is named after its plugin unless its name is that of the kind, as in `teacher: {…}`, or of the key.
        nameless = kind in {name, SINGLE.get(name)} and path != ("control", "self")
        use = value.get("use", None if nameless else name)
        self._refuse_huge(path, value)
        good = isinstance(use, str) and 0 < len(use) <= 500 and "\0" not in use
        message = f"must be the name of a plugin, not {show_value(use)}" if "use" in value else "is missing"
        if not self._require(good, (*path, "use"), message, "write `use: NAME` or `use: ./file.py:Class`"):
            return None
        keys = COMPONENT_KEYS.get(kind, Config)
        core_keys = self._own_keys(path, keys)
        options = {key: option for key, option in value.items() if key != "use" and key not in keys.model_fields}
        return ComponentSpec(as_written(path), name, kind, use, options, path, **core_keys)

    def _phases(self) -> tuple[PhaseSpec, ...]:
        train = self.data.get("train")
        entries = train.items() if isinstance(train, Mapping) else ()
        phases = [self._phase(("train", name), phase) for name, phase in entries if phase is not False]
        remedy = "add `train: {losses: {…}, steps: 100}`"
        self._require(bool(phases), ("train",), "needs at least one phase that is not off", remedy)
        return tuple(phase for phase in phases if phase is not None)

    def _phase(self, path: KeyPath, phase: Any) -> PhaseSpec | None:
        name = str(path[-1])
        self._require(NAME.fullmatch(name) is not None, path, f"must be {VALID_NAME}")
        if not isinstance(phase, Mapping):
            hint = did_you_mean(name, PHASE_KEYS, what="keys of a phase") if name != "train" else ""
            message = "must be" if name == "train" else "unknown key; a phase is"
            self._require(False, path, f"{message} a mapping with losses and steps, not {show_value(phase)}", hint)
            return None
        self.refuse_unknown(path, PHASE_KEYS)
        keys = ("losses", "transforms", "weightings")
        losses, transforms, weightings = (self.components((*path, key)) for key in keys)
        trainer, optimizer = (self._single((*path, key), self._first((key,))) for key in ("trainer", "optimizer"))
        sources: list[ComponentSpec] = []
        for key in SOURCE_KEYS:
            has_own = self._at((*path, key)) is not None
            kind = COLLECTIONS.get(key) or SINGLE[key]
            sources += self.components((*path, key)) if has_own else of_kind(self.shared, kind)
        for key in ("losses", "trainer", "rows", *(["corpora"] if self._at((*path, "corpora")) is not None else [])):
            self._need(path, key)
        core_keys = self._own_keys(path, PhaseKeys)
        return PhaseSpec(
            name=name,
            steps=core_keys["steps"],
            losses=losses,
            transforms=transforms,
            weightings=weightings,
            trainer=trainer,
            optimizer=optimizer,
            sources=tuple(sources),
            key=path,
            trains=core_keys["trains"],
        )

    def _refuse_huge(self, path: KeyPath, value: Any) -> None:
        """Add a problem for each number among the settings that becomes another one where it is counted or stored."""
        if isinstance(value, int) and abs(value) > LARGEST:
            self._require(False, path, f"must be within ±{LARGEST:,} (2^53 - 1), not {show_value(value)}")
        entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        for key, entry in entries:
            self._refuse_huge((*path, key), entry)

    def _single(self, path: KeyPath, default: ComponentSpec | None) -> ComponentSpec | None:
        """Return the trainer or optimizer with its own settings over the default's, if both use the same plugin."""
        value = self._at(path)
        if value is False:
            return None
        if default is None or not isinstance(value, Mapping):
            return self._first(path) or default
        use = value.get("use", default.use)
        inherited = default.options if use == default.use else {}
        return self._component(path, {**inherited, **value, "use": use}, SINGLE[str(path[-1])])

    def _control(self, phases: tuple[PhaseSpec, ...]) -> ControlSpec | None:
        value = self.data.get("control")
        if value is None or value is False:
            return None
        if isinstance(value, Mapping):
            self.refuse_unknown(("control",), CONTROL_KEYS)
        section = value if isinstance(value, Mapping) else {} if value is True else {"match": value}
        core_keys = self._own_keys(("control",), ControlKeys, section)
        losses, controls = self.components(("control", "losses")), []
        for phase in phases:
            trainer = self._single(("control", "trainer"), phase.trainer)
            if trainer and trainer != phase.trainer and len(phases) > 1:
                path = ("control", phase.name, "trainer")
                trainer = replace(trainer, path=".".join(path), key=path)
            controls.append(replace(phase, losses=losses or phase.losses, trainer=trainer))
        return ControlSpec(core_keys["match"], bool(losses), tuple(controls), self._first(("control", "self")))

    def _own_keys(self, path: KeyPath, keys: type[Config], section: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the core's own keys of a section; the defaults if any of them is wrong."""
        values = self._at(path) if section is None else section
        given = {key: values[key] for key in keys.model_fields if key in values}
        try:
            found = keys.model_validate_json(json.dumps(given, default=str), strict=True)
        except ValidationError as error:
            self.problems.extend(invalid(self.empty, path, as_written(path) or "the recipe", keys, error))
            found = keys.model_construct()
        return {key: getattr(found, key, None) for key in keys.model_fields}

    def _first(self, path: KeyPath) -> ComponentSpec | None:
        return next(iter(self.components(path)), None)

    def _at(self, path: KeyPath) -> Any:
        value: Any = self.data
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def _require(self, holds: bool, key: KeyPath, message: str, remedy: str = "") -> bool:
        if not holds:
            self.problems.append(problem_at(self.empty, key, message, remedy))
        return holds

    def _need(self, path: KeyPath, key: str) -> None:
        """Add a problem if a component is missing; an invalid one already has its own problem."""
        if key != "losses" and self._at((*path, key)) is None:
            path = ()  # the recipe's own serve all phases
        value = self._at((*path, key))
        entries = value.values() if isinstance(value, Mapping) and key in COLLECTIONS else (value,)
        word = COLLECTIONS.get(key, key)
        remedy = f"add for example `{word}: {{use: …}}`; `kdtool plugins list` shows what there is"
        is_there = any(entry is not None and entry is not False for entry in entries)
        self._require(is_there, (*path, key), "is missing", remedy)


def _defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default components of the keys that the recipe does not have, of kinds that only show a run."""
    missing = [kind for kind in TABLE if kind.shows and kind.key not in data]
    found = {kind: use for kind in missing if (use := default_of(kind.name))}
    return {kind.key: {"use": use} if kind.single else {use: {}} for kind, use in found.items()}


def invalid(
    recipe: Recipe,
    key: KeyPath,
    what: str,
    config: type[Config],
    error: ValidationError,
    core_keys: Collection[str] = (),
) -> Iterator[Problem]:
    """Yield a problem for each of pydantic's errors in the settings under a key: those of `what`, declared by `config`.

    The `core_keys`, such as a loss's weight, are written among the settings and are suggested, too.
    """
    try:
        whole = resolve(config.model_json_schema())
    except Exception:  # of a plugin's own types
        whole = {}
    seen: set[KeyPath] = set()
    details = error.errors(include_url=False)
    for detail in details:
        loc, kind = detail["loc"], detail["type"]
        if kind == "too_short" and any(other["loc"][:-1] == loc for other in details):
            continue  # pydantic counts only the entries that are right
        schema, inside = _find(whole, loc)
        path = (*key, *map(str, loc[:inside]))
        if kind in {"extra_forbidden", "unexpected_keyword_argument"} and "anyOf" not in schema:
            path = (*key, *map(str, loc))
            known = {*schema.get("properties", {}), *(core_keys if len(loc) == 1 else ())}
            hint = did_you_mean(str(loc[-1]), known, what="settings", shown=20) or "it has no settings"
            if key[:1] == ("evaluators",) and hint.startswith("settings") and "limit" in known:
                hint = f"the number of items to measure is `limit`; {hint}"
            yield problem_at(recipe, path, f"unknown setting{f' of {what}' if len(loc) == 1 else ''}", hint)
        elif kind in {"missing", "missing_argument"} and inside == len(loc):
            yield problem_at(recipe, path, f"is missing; {what} needs {describe(schema)}", _description(schema))
        elif path not in seen:
            seen.add(path)
            given = [detail["input"]] if 0 < len(loc) <= inside + 1 else []
            message, remedy = _mismatch(schema, detail, given)
            yield problem_at(recipe, path, message if loc else f"{what}: {message}", remedy)


def _find(schema: Mapping[str, Any], loc: Sequence[int | str]) -> tuple[Mapping[str, Any], int]:
    """Return the schema at a place, or that of the union which holds it, and the number of steps to there."""
    for depth, part in enumerate(loc):
        options = [option for option in schema.get("anyOf", (schema,)) if option.get("type") != "null"]
        if len(options) > 1:
            return schema, depth
        (only,) = options or [schema]
        key = "items" if isinstance(part, int) else "additionalProperties"
        below = only.get("properties", {}).get(part) or only.get(key)
        if not isinstance(below, Mapping):
            return only, depth
        schema = below
    return schema, len(loc)


def _mismatch(schema: Mapping[str, Any], detail: Any, given: Sequence[Any]) -> tuple[str, str]:
    """Return message and remedy for a value, if it is `given`."""
    allowed, message = describe(schema), detail["msg"].removeprefix("Value error, ")
    if detail["type"] in {"value_error", "assertion_error"} or not allowed:
        message = message.replace("Input should be", "must be")
    else:
        message = f"must be {allowed}"
    for value in given:
        message += f", not {show_value(value)}" if message.startswith("must be ") else f" (found {show_value(value)})"
    return message, _description(schema) if detail["type"] == "string_pattern_mismatch" else ""


def _description(schema: Mapping[str, Any]) -> str:
    return " ".join(str(schema.get("description", "")).split())


def load_recipe(recipe: Path | Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Recipe:
    """Read, compose and check a recipe.

    Args:
        recipe: a file, or the same as a mapping.
        settings: key paths to values, laid over it (`--set`).

    Raises:
        RecipeError: with all that is wrong.
    """
    read = read_recipe(recipe, settings)
    if read.problems:
        raise RecipeError(read.problems)
    return read


def read_recipe(recipe: Path | Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Recipe:
    """Do what `load_recipe` does, with mistakes among the recipe's `problems`, for `assemble` to raise with all others."""
    if isinstance(recipe, Mapping):
        content = {key: value for key, value in recipe.items() if key != "extends"}
        below = layers.read_layers(Path(str(recipe["extends"]))) if "extends" in recipe else []
        stack, name = [*below, as_node(content, Place("recipe", 0, 0, Path.cwd()))], "run"
    else:
        stack, name = layers.read_layers(recipe), name_from(recipe.stem, "run")
    problems, notes = list[Problem](), list[str]()
    composed = layers.compose([*stack, layers.settings_layer(settings or {}, problems)], problems, notes)
    empty = Recipe(name, (0,), (), (), None, composed.plain(), composed.places(), given=(recipe, settings or {}))
    read = Parser(empty).recipe()
    return replace(read, problems=(*problems, *read.problems), notes=tuple(notes))
