"""What evaluators have nothing to measure on, said before anything is trained."""

from __future__ import annotations

from collections.abc import Collection

from kdtool._contract.training import RunInfo
from kdtool._errors import RecipeError, UsageError
from kdtool._recipe.model import problem_at
from kdtool._run.context import Context
from kdtool._run.graph import Node, Stage
from kdtool._run.texts import StoredTexts

__all__ = ["refuse_unmeasurable"]


def refuse_unmeasurable(context: Context, texts: Node, *, but: Collection[str] = ()) -> None:
    """Have every evaluator `but` some look at the text, which is made, and at its files.

    Raises:
        RecipeError: with all that leaves nothing to measure on, each at its evaluator.
    """
    if context.rank:
        return
    run: RunInfo = context.info(Stage("run"), context.folder, StoredTexts(texts.path))
    problems = []
    for name in set(context.hooks.kdtool_measurable.names()) - set(but):
        try:
            context.hooks.kdtool_measurable.maybe(name)(run)
        except UsageError as error:
            key = context.assembly.built_for()[name].spec.key
            problems.append(problem_at(context.assembly.recipe, key, str(error)))
    if problems:
        raise RecipeError(problems)
