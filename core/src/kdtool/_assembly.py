"""From a `Recipe` to an `Assembly`: named plugins imported, configured, checked against each other, and built.

All problems come at once as a `RecipeError`. Shared components are built once; each phase of each arm gets fresh ones of
its own (losses, transforms, weightings, trainer) and a `Hooks` object of its own, so that two phases, two arms and two
runs in one process never see each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydantic

from kdtool._answers import attribute_problem
from kdtool._arms import arms_of
from kdtool._blame import told, using
from kdtool._contract.component import Component
from kdtool._contract.kinds import KINDS, Hooks
from kdtool._errors import PluginError, Problem, RecipeError, UsageError
from kdtool._fitting import fitting_problems
from kdtool._owner import Owner
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, invalid, problem_at
from kdtool._recipe.yaml_text import KeyPath
from kdtool._registration import ComponentManager, mistakes
from kdtool._registry import Loaded, load


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

    def instance(self) -> Component:
        """Build the component.

        Raises:
            PluginError: its constructor failed.
        """
        with using(self.owner, "its constructor"):
            return self.loaded.cls(self.config)


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
        built, manager = self.built_for(phase), ComponentManager()
        for name, item in built.items():
            with using(item.owner, "its registration"):
                manager.register(self.shared[name] if name in self.shared else item.instance(), name)
        owners = {name: item.owner for name, item in built.items()}
        required = frozenset(name for name, item in built.items() if item.spec.required)
        return Hooks(manager, owners, required, self.trace, self.complain)

    def built_for(self, phase: PhaseSpec | None = None) -> dict[str, Built]:
        """Return what stands behind the components of a scope, by name."""
        own = {spec.path: self.built[spec.key] for spec in phase.components} if phase else {}
        return {**self._shared_built, **own}


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
    specs = (*recipe.lasting, *(own for phase in (*recipe.phases, *control) for own in phase.components))
    for spec in {spec.key: spec for spec in specs}.values():
        if item := _build(recipe, spec, say, problems):
            built[spec.key] = item
    if problems:
        raise RecipeError(problems)
    shared = {spec.path: built[spec.key] for spec in recipe.lasting}
    arms = arms_of(recipe, built, problems)
    problems.extend(fitting_problems(recipe, built))
    if problems:
        raise RecipeError(problems)
    return Assembly(recipe, shared, arms, built)


def _build(recipe: Recipe, spec: ComponentSpec, say: Callable[[str], None], problems: list[Problem]) -> Built | None:
    key, what = (*spec.key, "use"), f"{spec.kind} {spec.use!r}"
    place = recipe.place(key)
    try:
        item = Built(spec, load(spec.kind, spec.use, place.folder if place else Path.cwd(), say), None)
        with using(item.owner, "its class"):
            return _configured(recipe, item, what, problems)
    except (UsageError, PluginError) as error:
        problems.append(replace(problem_at(recipe, key, told(error)), plugin=isinstance(error, PluginError)))
    return None


def _configured(recipe: Recipe, item: Built, what: str, problems: list[Problem]) -> Built | None:
    spec, cls = item.spec, item.loaded.cls
    wrong = [f"{what} {message}" for message in mistakes(cls, spec.kind)]
    problems.extend(replace(problem_at(recipe, (*spec.key, "use"), message), plugin=True) for message in wrong)
    if wrong:
        return None
    try:
        config = cls.Config.model_validate_json(json.dumps(dict(spec.options), default=str), strict=True)
    except pydantic.ValidationError as error:
        problems.extend(invalid(recipe, spec.key, what, cls.Config.model_fields, error))
        return None
    json.dumps(config.model_dump(mode="json"), ensure_ascii=False).encode()  # as records and fingerprints will
    built = replace(item, config=config)
    if problem := attribute_problem(built.instance(), KINDS[spec.kind]):
        raise PluginError(f"{item.owner}: {problem}")
    return built
