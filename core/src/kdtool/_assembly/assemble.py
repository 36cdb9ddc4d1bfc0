"""From a `Recipe` to an `Assembly`: named plugins imported, configured, checked against each other, and built.

All problems come at once as a `RecipeError`. An assembly owns one instance of every component, which answers questions about
itself, and closes them at its end. Each phase of each arm trains with fresh ones of its own (losses, transforms, weightings,
trainer) and hooks of its own, so that two phases, two arms and two runs in one process never see each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pydantic

from kdtool._assembly.arms import arms_of
from kdtool._assembly.built import Built, Lifetime, owner_of_spec
from kdtool._assembly.checks.all_checks import fitting_problems
from kdtool._contract.component import Component
from kdtool._contract.kinds import form_of
from kdtool._contract.reporting import Tracker
from kdtool._errors import PluginError, Problem, RecipeError, UsageError
from kdtool._plugins.attribution import told, using
from kdtool._plugins.hooks import ComponentHooks
from kdtool._plugins.loaded import Loaded
from kdtool._plugins.registry import load
from kdtool._plugins.return_types import attribute_problem
from kdtool._plugins.validation import mistakes
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, invalid, problem_at
from kdtool._recipe.yaml import KeyPath


class Assembly:
    """A recipe whose plugins are there and fit together; a context manager that closes its components at the end."""

    def __init__(
        self,
        recipe: Recipe,
        arms: Mapping[str, tuple[PhaseSpec, ...]],
        built: Mapping[KeyPath, Built],
        lifetime: Lifetime,
    ) -> None:
        self.recipe = recipe
        self.arms = arms
        self.built = built
        self._lifetime = lifetime
        self._shared_built = {spec.path: built[spec.key] for spec in recipe.lasting}
        self.shared: Mapping[str, Component] = {name: item.component for name, item in self._shared_built.items()}
        self._muted: set[str] = set()
        self._own_hooks: dict[tuple[KeyPath, ...], ComponentHooks] = {}

    def __enter__(self) -> Assembly:
        return self

    def __exit__(self, *_: object) -> None:
        self._lifetime.close()

    def complain(self, text: str) -> None:
        """Show the user a line, past all trackers."""
        self._lifetime.complain(text)

    def shows_messages(self) -> bool:
        """Return whether a tracker that has not failed shows the user the lines that `kdtool_said` gets."""
        trackers = {name: item for name, item in self.shared.items() if isinstance(item, Tracker)}
        return any(item.shows_messages and name not in self._muted for name, item in trackers.items())

    def named(self, kind: str) -> dict[str, Component]:
        """Return the shared components of a kind by name, in recipe order."""
        return {name: self.shared[name] for name, item in self._shared_built.items() if item.spec.kind == kind}

    def hooks(self, phase: PhaseSpec | None = None) -> ComponentHooks:
        """Return hooks on the assembly's own components: the shared ones and, for questions about a phase, those of it."""
        scope = tuple(spec.key for spec in phase.components) if phase else ()
        if scope not in self._own_hooks:
            self._own_hooks[scope] = self._hooks(self.built_for(phase))
        return self._own_hooks[scope]

    @contextmanager
    def scope(
        self, phase: PhaseSpec | None, instead: Mapping[str, Component] | None = None
    ) -> Iterator[ComponentHooks]:
        """Give hooks on the shared components, or those `instead` of them, and on new ones of the phase."""
        with Lifetime(self.complain, self._lifetime.trace) as lifetime:
            own = phase.components if phase else ()
            fresh = {spec.path: self.built[spec.key].renewed(lifetime) for spec in own}
            yield self._hooks({**self._shared_built, **fresh}, instead)

    def built_for(self, phase: PhaseSpec | None = None) -> dict[str, Built]:
        """Return what stands behind the components of a scope, by name."""
        own = {spec.path: self.built[spec.key] for spec in phase.components} if phase else {}
        return {**self._shared_built, **own}

    def reopened(self) -> Assembly:
        """Return the same assembly with new components, for use after this one has ended."""
        with _until_error(Lifetime(self.complain, self._lifetime.trace)) as lifetime:
            built = {key: item.renewed(lifetime) for key, item in self.built.items()}
            return Assembly(self.recipe, self.arms, built, lifetime)

    def _hooks(self, built: Mapping[str, Built], instead: Mapping[str, Component] | None = None) -> ComponentHooks:
        return ComponentHooks(
            {name: item.component for name, item in built.items()} | {**(instead or {})},
            {name: item.owner for name, item in built.items()},
            required=frozenset(name for name, item in built.items() if item.spec.required),
            trace=self._lifetime.trace,
            complain=self.complain,
            muted=self._muted,
        )


def assemble(
    recipe: Recipe, say: Callable[[str], None] = print, trace: Callable[[str], None] | None = None
) -> Assembly:
    """Import, configure, build and check the recipe's plugins. No weights are loaded and nothing is fetched.

    Args:
        recipe: what to assemble.
        say: called with a line for the user: before code from a local file runs, and for failures that do not stop the run.
        trace: called with a line for each call of a hook.

    Returns:
        The assembly, to be used in a `with` block, which closes its components.

    Raises:
        RecipeError: with all that is wrong.
    """
    problems: list[Problem] = []
    built: dict[KeyPath, Built] = {}
    control = recipe.control.phases if recipe.control else ()
    specs = (*recipe.lasting, *(own for phase in (*recipe.phases, *control) for own in phase.components))
    with _until_error(Lifetime(say, trace)) as lifetime:
        for spec in {spec.key: spec for spec in specs}.values():
            if item := _build(recipe, spec, lifetime, problems):
                built[spec.key] = item
        if problems:
            raise RecipeError(problems)
        arms = arms_of(recipe, built, problems)
        problems.extend(fitting_problems(recipe, built))
        if problems:
            raise RecipeError(problems)
        return Assembly(recipe, arms, built, lifetime)


@contextmanager
def _until_error(lifetime: Lifetime) -> Iterator[Lifetime]:
    """Close what was built in the block if it fails."""
    try:
        yield lifetime
    except BaseException:
        lifetime.close()
        raise


def _build(recipe: Recipe, spec: ComponentSpec, lifetime: Lifetime, problems: list[Problem]) -> Built | None:
    key = (*spec.key, "use")
    place = recipe.place(key)
    try:
        loaded = load(spec.kind, spec.use, place.folder if place else Path.cwd(), lifetime.complain)
        with using(owner_of_spec(spec, loaded), "its class"):
            return _configured(recipe, spec, loaded, lifetime, problems)
    except (UsageError, PluginError) as error:
        problems.append(replace(problem_at(recipe, key, told(error)), plugin=isinstance(error, PluginError)))
    return None


def _configured(
    recipe: Recipe, spec: ComponentSpec, loaded: Loaded, lifetime: Lifetime, problems: list[Problem]
) -> Built | None:
    cls, owner, what = loaded.cls, owner_of_spec(spec, loaded), f"{spec.kind} {spec.use!r}"
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
    built = Built(spec, loaded, config, lifetime.build(owner, cls, config))
    if problem := attribute_problem(built.component, form_of(cls, spec.kind)):
        raise PluginError(f"{owner}: {problem}")
    return built
