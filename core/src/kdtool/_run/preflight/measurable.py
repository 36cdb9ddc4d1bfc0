"""What evaluators have nothing to measure on, and exporters cannot write: said before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from kdtool._contract.evaluation import Evaluator, Exporter
from kdtool._contract.run_info import RunInfo
from kdtool._errors import RecipeError, UsageError
from kdtool._recipe.model import problem_at
from kdtool._run.context import Context
from kdtool._run.graph import Node, Stage
from kdtool._run.stages.text import StoredTexts
from kdtool._store.artefacts import verify
from kdtool._store.layout import MODEL

__all__ = ["refuse_unexportable", "refuse_unmeasurable"]


def refuse_unmeasurable(context: Context, texts: Node, *, but: Collection[str] = ()) -> None:
    """Have every evaluator `but` some look at the text, which is made, and at its files.

    Raises:
        RecipeError: with all that leaves nothing to measure on, each at its evaluator.
    """
    run: RunInfo = context.info(Stage("run"), context.folder, StoredTexts(texts.path))
    hooks = context.hooks
    names = set(hooks.implementing("kdtool_measurable")) - set(but)
    _refuse(context, names, lambda name: hooks.component(name, Evaluator).kdtool_measurable(run))


def refuse_unexportable(context: Context, student: Node, exports: Mapping[str, Node]) -> None:
    """Have every exporter that has not written yet look at the untrained student, which is made.

    Args:
        context: the run.
        student: the untrained student of one seed.
        exports: what exporters write, by their short names.

    Raises:
        RecipeError: with all that could not be written of it, each at its exporter.
    """
    run, hooks = context.info(Stage("run"), context.folder), context.hooks
    names = [name for name in hooks.implementing("kdtool_exportable") if not exports[name.rpartition(".")[2]].exists]
    if names and not context.rank:
        verify(student.path)
    _refuse(context, names, lambda name: hooks.component(name, Exporter).kdtool_exportable(run, student.path / MODEL))


def _refuse(context: Context, names: Iterable[str], ask: Callable[[str], None]) -> None:
    problems = []
    for name in () if context.rank else names:
        try:
            ask(name)
        except UsageError as error:
            key = context.assembly.built_for()[name].spec.key
            problems.append(problem_at(context.assembly.recipe, key, str(error)))
    if problems:
        raise RecipeError(problems)
