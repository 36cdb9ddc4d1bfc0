"""Refusals by components before training: a missing library, nothing to measure on, a model that cannot be exported."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.teacher_training import adapting_phases
from kdtool._contract.component import Component
from kdtool._contract.evaluation import Evaluator, Exporter
from kdtool._contract.run_info import RunInfo
from kdtool._errors import Problem, RecipeError, UsageError
from kdtool._recipe.model import problem_at
from kdtool._run.context import Context
from kdtool._run.graph import Node
from kdtool._run.stages.text import StoredTexts
from kdtool._store.artefacts import verify
from kdtool._store.layout import MODEL


def refuse_missing(
    assembly: Assembly, run: RunInfo, complete: set[str] | None = None, *, but: Collection[str] = ()
) -> None:
    """Ask every component `but` some for the libraries, devices and tools that it lacks on this machine.

    `complete` are components with settings that lack nothing and are not asked again; added to.

    Raises:
        RecipeError: with all that is missing, each at the component that needs it.
    """
    problems: dict[Problem, None] = {}
    asked, complete = set(but), set() if complete is None else complete
    phases = [phase for own in (*assembly.arms.values(), adapting_phases(assembly.recipe)) for phase in own]
    for phase in (None, *phases):
        hooks, built = assembly.hooks(phase), assembly.built_for(phase)
        for name in [name for name in hooks.implementing("kdtool_missing") if name not in asked]:
            settings = repr((built[name].spec.use, built[name].config))
            lacks = () if settings in complete else tuple(hooks.component(name, Component).kdtool_missing(run) or ())
            complete |= set() if lacks else {settings}
            key = built[name].spec.key
            problems |= {problem_at(assembly.recipe, key, f"cannot work here: {text}"): None for text in lacks}
        asked.update(assembly.shared)
    if problems:
        raise RecipeError(list(problems))


def refuse_unmeasurable(context: Context, texts: Node, *, but: Collection[str] = ()) -> None:
    """Have every evaluator `but` some check the text, which is made, and its own files.

    Raises:
        RecipeError: with all that leaves nothing to measure on, each at its evaluator.
    """
    run, hooks = context.info(texts=StoredTexts(texts.path)), context.hooks
    names = set(hooks.implementing("kdtool_measurable")) - set(but)
    _collect(context, names, lambda name: hooks.component(name, Evaluator).kdtool_measurable(run))


def refuse_unexportable(context: Context, student: Node, exports: Mapping[str, Node]) -> None:
    """Have every exporter that has not written yet check an untrained student, which is made; `exports` are by short name.

    Raises:
        RecipeError: with all that cannot be exported, each at its exporter.
    """
    run, hooks = context.info(), context.hooks
    names = [name for name in hooks.implementing("kdtool_exportable") if not exports[name.rpartition(".")[2]].exists]
    if names and not context.rank:
        verify(student.path)
    _collect(context, names, lambda name: hooks.component(name, Exporter).kdtool_exportable(run, student.path / MODEL))


def _collect(context: Context, names: Iterable[str], check: Callable[[str], None]) -> None:
    """Check all, on rank 0, and raise all refusals at once."""
    problems = []
    for name in () if context.rank else names:
        try:
            check(name)
        except UsageError as error:
            key = context.assembly.built_for()[name].spec.key
            problems.append(problem_at(context.assembly.recipe, key, str(error)))
    if problems:
        raise RecipeError(problems)
