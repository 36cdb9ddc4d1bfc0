"""From a `Recipe` to an `Assembly`: its plugins imported, configured, built, and checked against each other.

The arms of a run are the student, and controls that train the same student without the teacher. Controls of
`control: {self: …}` have the losses of the others, and rows of the student's own samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic

from kdtool._assembly.built import Built, BuiltRecipe, Lifetime
from kdtool._assembly.checks import check_components
from kdtool._assembly.signals import scale_to_one
from kdtool._assembly.trust import refuse_untrusted
from kdtool._contract.component import Component, Config
from kdtool._contract.reporting import Tracker
from kdtool._contract.run_info import Owner
from kdtool._errors import PluginError, Problem, RecipeError, UsageError
from kdtool._plugins.distributions import missing_extra
from kdtool._plugins.events import Events
from kdtool._plugins.hook_specs import attribute_problem, form_of, mistakes, offer_problem
from kdtool._plugins.hooks import ComponentHooks, describe, using
from kdtool._plugins.registry import load
from kdtool._recipe.model import COMPONENT_KEYS, ComponentSpec, PhaseSpec, Recipe, of_kind, problem_at
from kdtool._recipe.parser import invalid
from kdtool._recipe.yaml import KeyPath

_MORE = 0.3
"""Share of the text, for the test, that is proposed where there are too few documents."""


class Assembly:
    """A recipe with one instance of every component; a context manager that closes them at its end.

    These instances answer questions about themselves. Each phase of each arm trains with its own new instances (losses,
    transforms, weightings, trainer, optimizer) and its own hooks: two phases, arms or runs in one process never share state.
    """

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
        self.complain = lifetime.complain
        """Shows the user a line, past all trackers."""
        self._lifetime = lifetime
        self._shared_built = {spec.path: built[spec.key] for spec in recipe.lasting}
        self.shared: Mapping[str, Component] = {name: item.component for name, item in self._shared_built.items()}
        self.events = Events({name: item.thread for name, item in self._shared_built.items() if item.thread})
        self._muted: set[str] = set()
        self._own_hooks: dict[tuple[KeyPath, ...], ComponentHooks] = {}

    def __enter__(self) -> Assembly:
        return self

    def __exit__(self, *_: object) -> None:
        self._lifetime.close()

    def shows_messages(self) -> bool:
        """Return whether a tracker that has not failed shows the user the lines that `kdtool_message` gets."""
        return any(
            isinstance(item, Tracker) and item.shows_messages and name not in self._muted
            for name, item in self.shared.items()
        )

    def option_for_more_test_text(self) -> str:
        """Return an option by which a corpus sets aside more text for the test; "" if none has a smaller `test_share`."""
        shares = {name: getattr(item.config, "test_share", _MORE) for name, item in self.of_kind("corpus").items()}
        paths = [self._shared_built[name].spec.path for name, share in shares.items() if share < _MORE]
        return f"--set {paths[0]}.test_share={_MORE}" if paths else ""

    def of_kind(self, kind: str) -> dict[str, Component]:
        """Return the shared components of a kind by name, in recipe order."""
        return {name: self.shared[name] for name, item in self._shared_built.items() if item.spec.kind == kind}

    def hooks(self, phase: PhaseSpec | None = None) -> ComponentHooks:
        """Return hooks on the assembly's own components: the shared ones and, for questions about a phase, those of it."""
        scope = tuple(spec.key for spec in phase.components) if phase else ()
        if scope not in self._own_hooks:
            self._own_hooks[scope] = self._hooks(self.built_for(phase), whole=self.hooks() if scope else None)
        return self._own_hooks[scope]

    @contextmanager
    def scope(
        self, phase: PhaseSpec | None, instead: Mapping[str, Component] | None = None
    ) -> Iterator[ComponentHooks]:
        """Give hooks on the shared components, or those `instead` of them, and on new ones of the phase."""
        with Lifetime(self.complain) as lifetime:
            fresh = {spec.path: self.built[spec.key].renew(lifetime) for spec in (phase.components if phase else ())}
            yield self._hooks({**self._shared_built, **fresh}, instead, whole=self.hooks())

    def built_for(self, phase: PhaseSpec | None = None) -> dict[str, Built]:
        """Return the built components of a scope, by name."""
        own = {spec.path: self.built[spec.key] for spec in phase.components} if phase else {}
        return {**self._shared_built, **own}

    def reopen(self) -> Assembly:
        """Return the same assembly with new components, for use after this one has ended."""
        with ExitStack() as on_error:
            lifetime = on_error.enter_context(Lifetime(self.complain))
            built = {key: item.renew(lifetime) for key, item in self.built.items()}
            on_error.pop_all()
        return Assembly(self.recipe, self.arms, built, lifetime)

    def _hooks(
        self,
        built: Mapping[str, Built],
        instead: Mapping[str, Component] | None = None,
        *,
        whole: ComponentHooks | None,
    ) -> ComponentHooks:
        return ComponentHooks(
            {**{name: item.component for name, item in built.items()}, **(instead or {})},
            {name: item.owner for name, item in built.items()},
            required=frozenset(name for name, item in built.items() if item.spec.required),
            complain=self.complain,
            muted=self._muted,
            events=self.events,
            whole=whole,
        )


def assemble(
    recipe: Recipe, say: Callable[[str], None] = print, look: Callable[[Assembly], Iterable[Problem]] = lambda _: ()
) -> Assembly:
    """Import, configure, build and check the recipe's plugins. No weights are loaded and nothing is fetched.

    Args:
        recipe: what to assemble.
        say: called with a line for the user: the recipe's notes, before code from a local file runs, and for failures that
            do not stop the run.
        look: returns further problems of sources and student. Called if there are problems already, with an assembly of
            those that could be built.

    Returns:
        The assembly, to be used in a `with` block, which closes its components.

    Raises:
        RecipeError: with all that is wrong.
    """
    for note in recipe.notes:
        say(note)
    problems = [*recipe.problems]
    built: dict[KeyPath, Built] = {}
    control = recipe.control.phases if recipe.control else ()
    specs = (*recipe.lasting, *(component for phase in (*recipe.phases, *control) for component in phase.components))
    with ExitStack() as on_error:
        lifetime = on_error.enter_context(Lifetime(say))
        for spec in {spec.key: spec for spec in specs}.values():
            try:
                if item := _build(recipe, spec, lifetime, problems):
                    built[spec.key] = item
            except (UsageError, PluginError) as error:
                problem = problem_at(recipe, (*spec.key, "use"), describe(error))
                problems.append(replace(problem, plugin=isinstance(error, PluginError)))
        parts = BuiltRecipe(recipe, built)
        whole = not problems
        arms = arms_of(parts, problems) if whole else {}
        if not recipe.problems:  # else components that could not be read would count as missing
            problems.extend(check_components(parts, whole=whole))
        if problems:
            some = replace(recipe, shared=_standing(parts), phases=(), control=None, reference=None)
            raise RecipeError([*problems, *look(Assembly(some, {"student": ()}, built, lifetime))])
        on_error.pop_all()
    return Assembly(recipe, arms, built, lifetime)


def _standing(parts: BuiltRecipe) -> tuple[ComponentSpec, ...]:
    """Return the sources that could be built, and the student, except those that take something of others that could not."""
    teachers, built = parts.recipe.data.get("teachers") or {}, {each.spec.path for each in parts.built.values()}
    count = sum(entry is not False for entry in teachers.values()) if isinstance(teachers, Mapping) else 1
    there = [spec for spec in parts.recipe.lasting if spec.key in parts.built]
    kinds = {"corpus", "teacher"} | ({"student"} if len(of_kind(there, "teacher")) >= count else set())
    return tuple(spec for spec in there if spec.kind in kinds and parts.component(spec).derives_from.keys() <= built)


def _build(recipe: Recipe, spec: ComponentSpec, lifetime: Lifetime, problems: list[Problem]) -> Built | None:
    origin, what = recipe.place((*spec.key, "use")), f"{spec.kind} {spec.use!r}"
    loaded = load(spec.kind, spec.use, origin.folder if origin else Path.cwd(), lifetime.complain)
    cls, owner = loaded.cls, Owner(spec.path, spec.kind, spec.use, loaded.distribution, loaded.version)
    with using(owner, "its class"):
        if wrong := list(mistakes(cls, spec.kind)):
            raise PluginError("\n".join(f"{what} {message}" for message in wrong))
        try:
            options = json.dumps(dict(spec.options), default=str)
            # Validated twice: records keep paths as they are written, the component gets them from the recipe's folder.
            written = cls.Config.model_validate_json(options, strict=True)
            folders = dict(_folders(recipe, spec.key, spec.options))
            config = cls.Config.model_validate_json(options, strict=True, context=folders)
        except pydantic.ValidationError as error:
            core_keys = COMPONENT_KEYS.get(spec.kind, Config).model_fields
            problems.extend(invalid(recipe, spec.key, what, cls.Config, error, core_keys))
            return None
        if untrusted := list(refuse_untrusted(recipe, spec.key, config)):
            problems.extend(untrusted)
            return None
        json.dumps(written.model_dump(mode="json"), ensure_ascii=False).encode()  # as records and fingerprints will
        component, thread = lifetime.build(owner, cls, config, required=spec.required)
        if problem := attribute_problem(component, form_of(cls, spec.kind)) or offer_problem(component):
            raise PluginError(f"{owner}: {problem}")
        extra = component.extra
    if missing := missing_extra(owner.distribution, extra):
        raise UsageError(f"{what} {missing}")
    return Built(spec, loaded, written, config, component, owner, thread)


def _folders(recipe: Recipe, key: KeyPath, value: Any) -> Iterator[tuple[str, Path]]:
    """Yield each text below a key with the folder of the recipe that contains it."""
    if isinstance(value, str) and (place := recipe.place(key)):
        yield value, place.folder
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield from _folders(recipe, (*key, name), entry)


def arms_of(parts: BuiltRecipe, problems: list[Problem]) -> dict[str, tuple[PhaseSpec, ...]]:
    """Return the phases of each arm by its name, the student's first; phases that train a teacher belong to no arm."""
    arms = {"student": tuple(phase for phase in parts.recipe.phases if phase.trains is None)}
    if control := parts.recipe.control:
        phases = [_without_teacher(parts, phase, problems, control.losses_given) for phase in control.phases]
        arms |= dict.fromkeys(control.arms, tuple(phases))
    return arms


def _without_teacher(parts: BuiltRecipe, phase: PhaseSpec, problems: list[Problem], losses_given: bool) -> PhaseSpec:
    """Return a phase without the losses that need a teacher, the others' weights scaled to sum to 1.

    Losses that balance experts keep their weights.
    """
    without = [spec for spec in phase.losses if not parts.component(spec).needs]
    balancing = [spec for spec in without if getattr(parts.component(spec), "routing", False)]
    kept = [spec for spec in without if spec not in balancing]
    weights = scale_to_one([spec.weight for spec in kept])
    message = ""
    if not kept:
        message = "needs a loss that works without a teacher"
    elif losses_given and len(without) < len(phase.losses):
        message = "has a loss that needs a teacher"
    elif weights is None:
        message = (
            f"has weights ({', '.join(spec.name for spec in kept)}) that cannot be scaled to sum to 1: all are 0, or follow "
            "schedules"
        )
    if message:
        remedy = "name losses for the control that need no teacher: `control: {losses: {NAME: {weight: 0.7}}}`"
        problems.append(parts.problem(("control",), f"in phase {phase.name!r} {message}", remedy))
    losses = (replace(spec, weight=weight) for spec, weight in zip(kept, weights or (), strict=False))
    return replace(phase, losses=(*losses, *balancing))
