"""From a `Recipe` to an `Assembly`: named plugins imported, configured, checked against each other, and built.

All problems come at once as a `RecipeError`. Shared components are built once; each phase of each arm gets fresh ones of
its own (losses, transforms, weightings, trainer) and a `Hooks` object of its own, so that two phases, two arms and two
runs in one process never see each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pydantic

from kdtool._compatibility import check_signals, control_arms, teacher_of
from kdtool._contract.component import Component
from kdtool._contract.hooks import Owner
from kdtool._contract.kinds import Cache, Hooks, Loss, Student, Teacher
from kdtool._contract.results import ComponentRecord
from kdtool._contract.signals import Offer
from kdtool._contract.training import Term
from kdtool._errors import KdtoolError, PluginError, Problem, RecipeError
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, problem_at
from kdtool._recipe.yaml_text import KeyPath, as_written
from kdtool._registration import ComponentManager, mistakes
from kdtool._registry import Loaded, load
from kdtool._suggest import did_you_mean

__all__ = ["Assembly", "Built", "assemble"]


@dataclass(frozen=True)
class Built:
    """A component's class with its validated config: instances are made from it when a scope needs them."""

    spec: ComponentSpec
    loaded: Loaded
    config: Any

    @property
    def owner(self) -> Owner:
        """Return who stands behind it, for messages."""
        return Owner(self.spec.path, self.spec.kind, self.spec.use, self.loaded.distribution, self.loaded.version)

    @property
    def record(self) -> ComponentRecord:
        """Return what a run's record says of it; the config has its defaults."""
        config = self.config.model_dump(mode="json")
        loaded = self.loaded
        return ComponentRecord(
            self.spec.path, self.spec.kind, self.spec.use, loaded.distribution, loaded.version, config
        )

    def instance(self) -> Component:
        """Build the component.

        Raises:
            PluginError: its constructor failed.
        """
        try:
            return self.loaded.cls(self.config)
        except KdtoolError:
            raise
        except Exception as error:
            raise PluginError(f"{self.owner} cannot be built: {type(error).__name__}: {error}") from error


class Assembly:
    """A recipe whose plugins are there and fit together."""

    def __init__(
        self,
        recipe: Recipe,
        shared: Mapping[str, Built],
        arms: Mapping[str, tuple[PhaseSpec, ...]],
        built: Mapping[KeyPath, Built],
    ) -> None:
        self.recipe = recipe
        self.arms = arms
        self.built = built
        self.shared: Mapping[str, Component] = {name: item.instance() for name, item in shared.items()}
        self._shared_built = shared
        self.trace: Callable[[str], None] | None = None
        self.complain: Callable[[str], None] = print

    def named(self, kind: str) -> dict[str, Component]:
        """Return the shared components of a kind by name, in recipe order."""
        return {name: self.shared[name] for name, item in self._shared_built.items() if item.spec.kind == kind}

    def hooks(self, phase: PhaseSpec | None = None) -> Hooks:
        """Return hooks on the shared components and, for a phase, on fresh ones of its own."""
        manager = ComponentManager()
        owners: dict[str, Owner] = {}
        required = set()
        own = {spec.path: self.built[spec.key] for spec in phase.components} if phase else {}
        for name, item in {**self._shared_built, **own}.items():
            manager.register(self.shared[name] if name in self.shared else item.instance(), name)
            owners[name] = item.owner
            if item.spec.required:
                required.add(name)
        return Hooks(manager, owners, required=frozenset(required), trace=self.trace, complain=self.complain)

    def built_for(self, phase: PhaseSpec | None = None) -> dict[str, Built]:
        """Return what stands behind the components of a scope, by name."""
        own = {spec.path: self.built[spec.key] for spec in phase.components} if phase else {}
        return {**self._shared_built, **own}

    def terms(self, phase: PhaseSpec) -> tuple[Term, ...]:
        """Return the phase's terms, without the layers that losses ask for once the models' shapes are known."""
        terms = []
        for spec in phase.losses:
            loss = self.built[spec.key].instance()
            if not isinstance(loss, Loss):
                raise TypeError(f"{spec.path} is no loss")
            teacher = teacher_of(spec, loss, self.recipe)
            terms.append(Term(spec.path, spec.name, spec.weight, loss.temperature, teacher.path if teacher else None))
        return tuple(terms)

    def records(self) -> tuple[ComponentRecord, ...]:
        """Return the record of every component of every arm."""
        return tuple(item.record for item in self.built.values())


def assemble(recipe: Recipe, say: Callable[[str], None] = print) -> Assembly:
    """Import, configure and check the recipe's plugins. No weights are loaded and nothing is fetched.

    Args:
        recipe: what to assemble.
        say: is told before code from a local file runs.

    Raises:
        RecipeError: with all that is wrong.
    """
    problems: list[Problem] = []
    built: dict[KeyPath, Built] = {}
    control = recipe.control.phases if recipe.control else ()
    specs = (*recipe.shared, *(own for phase in (*recipe.phases, *control) for own in phase.components))
    for spec in {spec.key: spec for spec in specs}.values():
        if item := _build(recipe, spec, say, problems):
            built[spec.key] = item
    if problems:
        raise RecipeError(problems)
    shared = {spec.path: built[spec.key] for spec in recipe.shared}
    arms = {"student": recipe.phases, **control_arms(recipe, built, problems)}
    check_signals(recipe, built, problems)
    if problems:
        raise RecipeError(problems)
    return Assembly(recipe, shared, arms, built)


def _build(recipe: Recipe, spec: ComponentSpec, say: Callable[[str], None], problems: list[Problem]) -> Built | None:
    place = recipe.place((*spec.key, "use")) or recipe.place(spec.key)
    try:
        loaded = load(spec.kind, spec.use, place.folder if place else Path.cwd(), say)
    except PluginError as error:
        problems.append(problem_at(recipe, (*spec.key, "use"), str(error)))
        return None
    wrong = list(mistakes(loaded.cls, spec.kind))
    problems.extend(problem_at(recipe, (*spec.key, "use"), f"{spec.kind} {spec.use!r} {message}") for message in wrong)
    if wrong:
        return None
    try:
        config = loaded.cls.Config.model_validate_json(json.dumps(dict(spec.options), default=str), strict=True)
        item = Built(spec, loaded, config)
        _check_attributes(item.instance())
    except pydantic.ValidationError as error:
        problems.extend(_config_problems(recipe, spec, loaded, error))
        return None
    except KdtoolError as error:
        problems.append(problem_at(recipe, spec.key, str(error)))
        return None
    return item


def _config_problems(
    recipe: Recipe, spec: ComponentSpec, loaded: Loaded, error: pydantic.ValidationError
) -> Iterable[Problem]:
    fields = loaded.cls.Config.model_fields
    for detail in error.errors(include_url=False):
        path = (*spec.key, *detail["loc"])
        name = ".".join(str(part) for part in detail["loc"])
        if detail["type"] == "extra_forbidden":
            hint = did_you_mean(str(detail["loc"][-1]), fields, what=f"settings of {spec.use}", shown=20)
            yield replace(
                problem_at(recipe, path, f"is no setting of {spec.kind} {spec.use!r}", hint), key=as_written(path)
            )
        elif detail["type"] == "missing":
            described = fields[name].description if name in fields else ""
            yield problem_at(recipe, spec.key, f"{spec.kind} {spec.use!r} needs the setting {name!r}", described or "")
        else:
            given = f", not {detail['input']!r}" if isinstance(detail["input"], str | int | float | bool) else ""
            yield problem_at(recipe, path, f"{detail['msg']}{given}")


def _check_attributes(component: Component) -> None:
    known = frozenset(get_args(Offer))
    sets: tuple[object, ...] = ()
    if isinstance(component, Teacher | Cache):
        sets = (component.offers,)
    elif isinstance(component, Loss):
        sets = component.needs
    if not isinstance(sets, tuple) or not all(isinstance(item, frozenset) and item <= known for item in sets):
        rule = "`offers` is a frozenset, and `needs` a tuple of frozensets, of"
        raise PluginError(f"{type(component).__name__}: {rule} {', '.join(sorted(known))}")


def uses_seed(assembly: Assembly) -> bool:
    """Return whether the recipe's student is built differently for each seed."""
    return any(student.uses_seed for student in assembly.named("student").values() if isinstance(student, Student))
