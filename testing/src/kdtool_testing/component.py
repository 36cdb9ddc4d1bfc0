"""The suite that every component passes: how it is registered, configured, described, built and closed.

`as_called` shows a component as kdtool calls it: a method that wraps other components' hooks is not the component's hook.
"""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import inspect
import json
import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from math import inf, nextafter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, get_args, get_origin

import jsonschema
import pydantic
import pytest
from kdtool import (
    Component,
    Estimate,
    LicenceTerms,
    ModelFacts,
    PlannedPhase,
    PlannedSignals,
    RunForecast,
    RunInfo,
    SignalRequest,
)
from kdtool._assembly.trust import is_marked, type_parts
from kdtool._contract.component import KEY_VARIABLE, SERVICE_URL
from kdtool._contract.language_model import facts_in
from kdtool._plugins.hook_specs import mistakes

from kdtool_testing.readme_examples import uses
from kdtool_testing.suite import OfferedConformance, for_any_settings
from kdtool_testing.toy import Listener, make_run


class RegistrationConformance(OfferedConformance):
    """A component is found under its name, can be registered, imports nothing heavy, and is shown by its README."""

    kind: ClassVar[str] = ""
    component: ClassVar[type[Component]]
    """The class under test."""
    settings: ClassVar[Mapping[str, Any]] = {}
    """A valid config, as a recipe would write it."""

    @classmethod
    def _unset(cls) -> str:
        """Return an instruction if the class under test or a setting that it requires is missing."""
        if not hasattr(cls, "component"):
            return f"write `component = …`, the {cls.kind} class under test"
        if missing := _missing(cls.component, cls.settings):
            given = ", ".join(f'"{name}": …' for name in missing)
            return f"give `settings`: {cls.component.__name__} requires {', '.join(missing)}; write `settings = {{{given}}}`"
        return ""

    @for_any_settings
    def test_it_is_of_the_suite_s_kind(self) -> None:
        assert self.kind in {"", self.component.kind}, f"inherit the suite of the kind {self.component.kind}"

    @for_any_settings
    def test_nothing_hinders_its_registration(self) -> None:
        assert list(mistakes(self.component, self._kind())) == []

    @for_any_settings
    def test_its_readme_s_recipe_can_be_assembled(self) -> None:
        found = _uses_in(self._readme())
        assert found, "the README shows no recipe in a yaml block"
        assert (self._kind(), self.entry_point) in found, f"no recipe of the README uses it; they use {sorted(found)}"

    def test_a_recipe_s_json_schema_takes_its_settings_and_refuses_others(self) -> None:
        schema = self.component.Config.model_json_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        assert list(validator.iter_errors(self._fill_in())) == []
        assert not validator.is_valid(self._fill_in(no_such_setting=1))

    def _offer(self) -> Any:
        return self.component

    def _kind(self) -> str:
        return self.component.kind

    def _import_arguments(self) -> tuple[str, str, str | None]:
        return self.component.__module__, self.component.__qualname__, json.dumps(self._fill_in())

    def _fill_in(self, **settings: Any) -> dict[str, Any]:
        """Return a valid config, with further `settings` laid over it."""
        return {**self.settings, **settings}


@cache
def _uses_in(readme: str) -> frozenset[tuple[str, str]]:
    """Assemble all recipes of a README; return the kind and `use` of every component in them."""
    blocks = re.findall(r"```ya?ml\n(.*?)```", readme, re.DOTALL)
    with TemporaryDirectory() as folder:
        return frozenset(use for number, block in enumerate(blocks) for use in uses(block, Path(folder, str(number))))


class ComponentConformance(RegistrationConformance):
    """Settings are described, bounded and strict, descriptions are true, and the component can be closed at any time.

    Override `prepare` if the component needs files, and `companions` if it asks others of the run.
    """

    @classmethod
    def _unset(cls) -> str:
        """Return an instruction if neither `settings` nor `prepare` can give a setting that is required."""
        prepares = hasattr(cls, "component") and cls.prepare is not ComponentConformance.prepare
        return "" if prepares else super()._unset()

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        """Return settings, over `settings`, under which the component works; write the files they name into `folder`.

        It is called once for each folder of a run, before the component is built, so it may build a model.
        """
        return {}

    def companions(self, folder: Path) -> Mapping[str, Component]:
        """Return the other components that `run.hook` reaches, by name."""
        return {}

    @pytest.fixture
    def run(self, tmp_path: Path) -> RunInfo:
        """A run in a separate folder; `run.hook` reaches a `Listener` and the companions."""
        folder = tmp_path / "run"
        folder.mkdir()
        run = self.make_run(folder)
        self._prepare_once(folder)
        return run

    def make_run(self, folder: Path, **fields: Any) -> RunInfo:
        """Return a run in `folder` as `run` is, with further fields of `RunInfo`."""
        return make_run(folder, {"listener": Listener(), **self.companions(folder)}, **fields)

    def build(self, **settings: Any) -> Any:
        """Build the component from `settings`, with further ones laid over them, validated as a recipe's are."""
        return self.component(self._validate(self._fill_in(**settings)))

    def ready(self, run: RunInfo) -> Any:
        """Build the component so that it works in `run`."""
        return self.build(**self._prepare_once(run.folder))

    def _prepare_once(self, folder: Path) -> Mapping[str, Any]:
        """Return what `prepare` returned for a folder."""
        known = vars(self).setdefault("_prepared_folders", {})
        if folder not in known:
            folder.mkdir(parents=True, exist_ok=True)
            known[folder] = self.prepare(folder)
        found: Mapping[str, Any] = known[folder]
        return found

    def _fill_in(self, **settings: Any) -> dict[str, Any]:
        """Return a valid config; settings that are required and missing are those of `prepare`, without its files."""
        given = super()._fill_in(**settings)
        if not _missing(self.component, given):
            return given
        with TemporaryDirectory() as folder:
            return {**self._prepare_once(Path(folder)), **given}

    def _validate(self, settings: Mapping[str, Any]) -> Any:
        return self.component.Config.model_validate_json(json.dumps(dict(settings)), strict=True)

    @for_any_settings
    def test_its_class_and_every_setting_are_described(self) -> None:
        assert inspect.getdoc(self.component) not in {None, inspect.getdoc(self.component.__mro__[1])}
        schema = self.component.Config.model_json_schema()
        for model in (schema, *schema.get("$defs", {}).values()):
            for name, field in model.get("properties", {}).items():
                assert field.get("description"), f"setting {name!r} has no description below it"

    @for_any_settings
    def test_its_numbers_have_bounds(self) -> None:
        for name, field in _properties(self.component):
            for form in _forms(field):
                if form.get("type") in {"integer", "number"} and "const" not in form and "enum" not in form:
                    assert _outside(form), f"setting {name!r} takes any number: give it bounds"

    @for_any_settings
    def test_values_just_outside_bounds_are_refused(self) -> None:
        for name, field in _properties(self.component):
            for form in _forms(field):
                for value in _outside(form):
                    if any(_fits(value, other) for other in _forms(field)):
                        continue
                    with pytest.raises(pydantic.ValidationError) as caught:
                        self._validate(self._fill_in(**{name: value}))
                    assert any(error["loc"][:1] == (name,) for error in caught.value.errors()), (name, value)

    @for_any_settings
    def test_unknown_settings_are_refused(self) -> None:
        with pytest.raises(pydantic.ValidationError) as caught:
            self._validate(self._fill_in(no_such_setting=1))
        assert [error["type"] for error in caught.value.errors()] == ["extra_forbidden"]

    @for_any_settings
    def test_addresses_and_names_of_variables_are_typed(self) -> None:
        for name, field in _fields(self.component.Config):
            outward = _OUTWARD.fullmatch(name) or _OUTWARD_USE.search(f"{field.description} {field.default}")
            if outward and _holds_text(field.annotation, mappings=not _VARIABLES.fullmatch(name)):
                typed = is_marked(field, SERVICE_URL) or is_marked(field, KEY_VARIABLE)
                assert typed, f"make {name!r} a kdtool.ServiceUrl or a kdtool.KeyVariable: a recipe might send secrets"

    def test_its_settings_survive_a_round_trip(self) -> None:
        config = self._validate(self._fill_in())
        assert self.component.Config.model_validate_json(config.model_dump_json(), strict=True) == config

    def test_what_it_says_of_itself_is_well_formed_and_stable(self, run: RunInfo) -> None:
        said = [_describe(component, run) for component in (self.ready(run), self.ready(run))]
        assert said[0] == said[1]
        identity, facts, terms, missing = said[0]
        assert all(isinstance(text, str) for pair in (identity or {}).items() for text in pair)
        assert facts is None or isinstance(facts, ModelFacts)
        assert terms is None or (isinstance(terms, LicenceTerms) and terms.licence)
        assert missing is None or all(isinstance(text, str) and text for text in missing)

    def test_what_it_estimates_is_well_formed_and_stable(self, run: RunInfo) -> None:
        said = [_estimate(component, run) for component in (self.ready(run), self.ready(run))]
        assert [_without_seconds(part) for part in said[0]] == [_without_seconds(part) for part in said[1]]
        stages = {*_STAGES, *(stage.partition("/")[0] for stage in _STAGES)}
        for part in said[0]:
            assert isinstance(part, Estimate)
            assert part.part
            assert min(value for value in vars(part).values() if isinstance(value, int | float)) >= 0
            assert {stage.partition(": ")[0] for stage in part.stages} <= stages, (
                "stages are those of the forecast, or their kinds"
            )
            for saving in part.savings:
                assert saving.cost
                assert saving.settings.keys() <= self.component.Config.model_fields.keys()

    def test_building_and_asking_it_changes_nothing_around_it(self, run: RunInfo) -> None:
        before = _around(run.folder)
        component = self.ready(run)
        _describe(component, run)
        component.kdtool_close()
        assert _around(run.folder) == before

    def test_it_can_be_closed_unused_and_twice(self) -> None:
        component = self.build()
        component.kdtool_close()
        component.kdtool_close()


def _missing(component: type[Component], settings: Mapping[str, Any]) -> list[str]:
    """Return the names of required settings that are not given."""
    fields = component.Config.model_fields.items()
    return [name for name, field in fields if field.is_required() and name not in settings]


def _describe(component: Any, run: RunInfo) -> tuple[Any, ...]:
    hooks = as_called(component)
    identity = hooks.kdtool_identity(run)
    facts = facts_in(hooks.kdtool_describe(run))
    missing = hooks.kdtool_check(run, "start")
    return identity, facts, component.licence_terms, missing


_STAGES = (
    "students",
    "rows",
    "signals/teacher",
    "phases/student-seed0-train",
    "exports/safetensors",
    "scores/perplexity",
)


def _estimate(component: Any, run: RunInfo) -> list[Estimate]:
    """Ask for estimates of a run whose student and teacher are what the component describes, or a common model."""
    hooks = as_called(component)
    facts = facts_in(hooks.kdtool_describe(run)) or _SHAPE
    phase = PlannedPhase("train", "phases/student-seed0-train", "student", 10, (), 64, None, facts, beside=("teacher",))
    signals = PlannedSignals(
        "signals/teacher", "signals", "teacher", SignalRequest(frozenset({"logits"}), (1,)), 64, 6400
    )
    models = {"student": facts, "teacher": facts}
    ahead = RunForecast(models, "student", _STAGES, (phase,), (signals,), ("teacher",), phase)
    return list(hooks.kdtool_estimate(run, ahead) or ())


def _without_seconds(part: Estimate) -> Estimate:
    """Leave out what is measured."""
    return replace(part, seconds=0.0, note="")


_SHAPE = ModelFacts(
    parameters=1_000_000,
    trainable=1_000_000,
    layers=4,
    hidden=64,
    heads=4,
    kv_heads=2,
    feed_forward=128,
    vocabulary=512,
    context=256,
    dtype="float32",
    tied=True,
    tokenizer_fingerprint="",
)


def _around(folder: Path) -> tuple[object, ...]:
    """Return what a component must leave as it is: environment, working folder, random numbers, the run's files."""
    return dict(os.environ), Path.cwd(), random.getstate(), sorted(folder.rglob("*"))


def _properties(component: type[Component]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from component.Config.model_json_schema().get("properties", {}).items()


_VARIABLES = re.compile(r"(.*_)?(variables?|vars?|env|environment)")
_ADDRESS = r"(ur[il]s?|endpoints?|address(es)?)"
_PRIVATE = r"(keys?|token|secrets?|passwords?|credentials?)"  # `tokens` are those of a tokenizer
_OUTWARD = re.compile(rf"{_VARIABLES.pattern}|(.*_)?({_ADDRESS}|(host(name)?|server|webhook)s?|prox(y|ies)|{_PRIVATE})")
_OUTWARD_USE = re.compile(rf"://|\b([\w.-]+:\d{{2,5}}|HOST:PORT|(?i:{_ADDRESS}|environment variables?))\b")


def _fields(model: type[pydantic.BaseModel]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a config and of those inside it."""
    for name, field in model.model_fields.items():
        yield name, field
        for part in type_parts(field.annotation):
            if inspect.isclass(part) and issubclass(part, pydantic.BaseModel):
                yield from _fields(part)


def _holds_text(annotation: Any, *, mappings: bool) -> bool:
    """Return whether a type allows any text. `mappings`: also as the value of a mapping, which holds no variables' names."""
    origin = get_origin(annotation)
    if origin is Literal or (not mappings and inspect.isclass(origin) and issubclass(origin, Mapping)):
        return False
    texts = (str, Any, pydantic.SecretStr)
    return annotation in texts or any(_holds_text(part, mappings=mappings) for part in get_args(annotation))


def _forms(field: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the alternatives of a field: several for `int | None`, one for most."""
    alternatives: list[Mapping[str, Any]] = field.get("anyOf", [field])
    return alternatives


def _outside(form: Mapping[str, Any]) -> list[Any]:
    """Return the values nearest to the bounds that are not allowed."""
    if form.get("type") == "array":
        return [[value] for value in _outside(form.get("items", {}))]
    whole = form.get("type") == "integer"
    values: list[Any] = []
    if "minimum" in form:
        values.append(form["minimum"] - 1 if whole else nextafter(form["minimum"], -inf))
    if "maximum" in form:
        values.append(form["maximum"] + 1 if whole else nextafter(form["maximum"], inf))
    return values + [form[key] for key in ("exclusiveMinimum", "exclusiveMaximum") if key in form]


def _fits(value: Any, form: Mapping[str, Any]) -> bool:
    """Say whether a number lies within another alternative's bounds."""
    if not isinstance(value, int | float) or form.get("type") not in {"integer", "number"}:
        return False
    return (
        form.get("minimum", -inf) <= value <= form.get("maximum", inf)
        and form.get("exclusiveMinimum", -inf) < value < form.get("exclusiveMaximum", inf)
        and (form["type"] == "number" or float(value).is_integer())
    )


def as_called(component: Component) -> Any:
    """Return a view of a component whose wrappers of hooks are replaced by hooks that do nothing."""
    return _View(component)


class _View:
    def __init__(self, component: Component) -> None:
        self._component = component

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._component, name)
        return _do_nothing if getattr(found, "kdtool_impl", {}).get("wrapper") else found


def _do_nothing(*_: object) -> None:
    """Return nothing, as a hook that is not implemented."""
