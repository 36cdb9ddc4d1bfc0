"""Refusals by components before training: a missing library, nothing to measure on, a model that cannot be exported."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
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
from kdtool._run.graph import Node
from kdtool._store.artefacts import verify
from kdtool._store.layout import MODEL

HOOK = "kdtool_check"


def refuse_missing(
    assembly: Assembly, run: RunInfo, complete: set[str] | None = None, *, but: Collection[str] = ()
) -> None:
    """Ask every component `but` some for the libraries, devices and tools that it lacks on this machine.

    `complete` are components with settings that lack nothing and are not asked again; added to.

    Raises:
        RecipeError: with all that is missing, each at the component that needs it.
    """
    problems: dict[Problem, None] = {}
    complete = set() if complete is None else complete
    for hooks, built in _implementing(assembly, HOOK):
        settings = repr((built.spec.use, built.config))
        if built.spec.path not in but and settings not in complete:
            lacks = tuple(_problems(hooks, built.spec.path, run, "start"))
            complete |= set() if lacks else {settings}
            problems |= {problem_at(assembly.recipe, built.spec.key, text): None for text in lacks}
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


def refuse_unmeasurable(context: Context, run: RunInfo, *, but: Collection[str] = ()) -> None:
    """Have every evaluator `but` some check `run.texts`, and its own files.

    Raises:
        RecipeError: with all that leaves nothing to measure on, each at its evaluator.
    """
    _refuse(context, [name for name in _checking(context, "evaluator") if name not in but], run, "text")


def refuse_unexportable(context: Context, student: Node, exports: Mapping[str, Node]) -> None:
    """Have every exporter that has not written yet check an untrained student, which is made; `exports` are by exporter.

    Raises:
        RecipeError: with all that cannot be exported, each at its exporter.
    """
    run = replace(context.info(), untrained=student.path / MODEL)
    names = [name for name in _checking(context, "exporter") if not exports[name].exists]
    if names and not context.rank:
        verify(student.path)
    _refuse(context, names, run, "student")


def _checking(context: Context, kind: str) -> list[str]:
    """Return the components of a kind that have the hook."""
    of_kind = context.assembly.of_kind(kind)
    return [name for name in context.hooks.implementing(HOOK) if name in of_kind]


def _refuse(context: Context, names: Iterable[str], run: RunInfo, when: Literal["text", "student"]) -> None:
    """Check all, on rank 0, and raise all refusals at once."""
    recipe, built = context.assembly.recipe, context.assembly.built_for()
    problems = [
        problem_at(recipe, built[name].spec.key, text)
        for name in (() if context.rank else names)
        for text in _problems(context.hooks, name, run, when)
    ]
    if problems:
        raise RecipeError(problems)


def _problems(hooks: Hooks, name: str, run: RunInfo, when: Literal["start", "text", "student"]) -> Iterator[str]:
    try:
        found = hooks.component(name, Component).kdtool_check(run, when)
    except UsageError as error:
        yield str(error)
    else:
        yield from found or ()
