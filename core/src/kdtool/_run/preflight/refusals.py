"""Refusals by components before training: a missing library, nothing to measure on, a model that cannot be exported."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Literal

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.built import Built
from kdtool._assembly.checks.teacher_training import adapting_phases
from kdtool._contract.component import Component
from kdtool._contract.run_info import Hooks, RunInfo
from kdtool._errors import Problem, RecipeError, ServiceError, UsageError
from kdtool._plugins.attribution import describe
from kdtool._plugins.owner import owner_of
from kdtool._recipe.model import problem_at
from kdtool._run.context import Context


def refuse(
    assembly: Assembly,
    run: RunInfo,
    when: Literal["start", "text", "student"],
    kind: str = "",
    *,
    but: Collection[str] = (),
    complete: set[str] | None = None,
) -> None:
    """Have every component, or every one of a `kind`, `but` some, check what it needs: `kdtool_check` at this time.

    `complete` are components with settings that lack nothing and are not asked again; added to.

    Raises:
        RecipeError: with all that is refused, each at the component that refuses.
    """
    problems: dict[Problem, None] = {}
    complete = set() if complete is None else complete
    for hooks, built in _implementing(assembly, "kdtool_check"):
        settings = repr((built.spec.use, built.config))
        if kind in {"", built.spec.kind} and built.spec.path not in but and settings not in complete:
            refused = tuple(_problems(hooks, built.spec.path, run, when))
            complete |= set() if refused else {settings}
            problems |= {problem_at(assembly.recipe, built.spec.key, text): None for text in refused}
    if problems:
        raise RecipeError(list(problems))


def identify(context: Context, run: RunInfo) -> None:
    """Add the identities of all components to `context.identities`, each asked once.

    A forecast leaves out those of models and data that are not on this machine.

    Raises:
        RecipeError: with all components that refuse, or that lack a file, each at its key.
        ServiceError: one is not on this machine and cannot be fetched.
    """
    problems: dict[Problem, None] = {}
    absent: ServiceError | None = None
    for hooks, built in _implementing(context.assembly, "kdtool_identity"):
        name = built.spec.path
        try:
            if name not in context.identities:
                context.identities[name] = hooks.component(name, Component).kdtool_identity(run) or {}
        except ServiceError as error:
            absent = error
        except (UsageError, FileNotFoundError) as error:
            owner, message = owner_of(error) or built.owner, describe(error)  # a student may ask its teacher
            if isinstance(error, FileNotFoundError):
                message = f"{owner}: there is no file {error.filename or error}"
            key = context.assembly.built_for().get(owner.name, built).spec.key
            problems[problem_at(context.assembly.recipe, key, message)] = None
    if problems:
        raise RecipeError(list(problems))
    if absent and not context.forecast:
        raise absent


@contextmanager
def refusals_with_places(assembly: Assembly) -> Iterator[None]:
    """Give the refusal of a component the place of its key, or of the setting that its message begins with.

    Raises:
        RecipeError: a component raised a UsageError.
    """
    try:
        yield
    except RecipeError:
        raise
    except UsageError as error:
        owner = owner_of(error)
        blamed = [built for built in assembly.built.values() if built.owner == owner]
        if not blamed:
            raise
        key, message = blamed[0].spec.key, describe(error)
        setting, _, rest = message.partition(": ")
        if setting in blamed[0].spec.options:
            key, message = (*key, setting), rest
        raise RecipeError([problem_at(assembly.recipe, key, message)]) from error


def _implementing(assembly: Assembly, hook: str) -> Iterator[tuple[Hooks, Built]]:
    """Yield all components with a hook: the shared ones once, those of a phase in each phase of each arm."""
    phases = [phase for own in (*assembly.arms.values(), adapting_phases(assembly.recipe)) for phase in own]
    for phase in (None, *phases):
        hooks, built = assembly.hooks(phase), assembly.built_for(phase)
        names = (name for name in hooks.implementing(hook) if phase is None or name not in assembly.shared)
        yield from ((hooks, built[name]) for name in names)


def _problems(hooks: Hooks, name: str, run: RunInfo, when: Literal["start", "text", "student"]) -> Iterator[str]:
    try:
        found = hooks.component(name, Component).kdtool_check(run, when)
    except UsageError as error:
        yield str(error)
    else:
        yield from found or ()
