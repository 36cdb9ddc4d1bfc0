"""What components lack on this machine, said before anything is spent: a library, a GPU, a compiler.

Asked by `kdtool check` and by the runner before the first stage: shared components once, those of every phase in each.
"""

from __future__ import annotations

from collections.abc import Collection

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.teacher_training import adapting_phases
from kdtool._contract.component import Component
from kdtool._contract.run_info import RunInfo
from kdtool._errors import Problem, RecipeError
from kdtool._recipe.model import problem_at

__all__ = ["refuse_missing"]

_TEXT = "cannot work here: "


def refuse_missing(
    assembly: Assembly, run: RunInfo, fine: set[str] | None = None, *, but: Collection[str] = ()
) -> None:
    """Ask every component `but` some what it lacks here.

    Args:
        assembly: the recipe's.
        run: what components are told.
        fine: components with settings that lack nothing, which are not asked again; added to. None: all are asked.
        but: names of components that are not asked.

    Raises:
        RecipeError: with all that is missing, each at the component that needs it.
    """
    problems: dict[Problem, None] = {}
    asked = set(but)
    fine = set() if fine is None else fine
    phases = [phase for own in (*assembly.arms.values(), adapting_phases(assembly.recipe)) for phase in own]
    for phase in (None, *phases):
        hooks, built = assembly.hooks(phase), assembly.built_for(phase)
        for name in [name for name in hooks.implementing("kdtool_missing") if name not in asked]:
            told = repr((built[name].spec.use, built[name].config))
            lacks = () if told in fine else tuple(hooks.component(name, Component).kdtool_missing(run) or ())
            fine |= set() if lacks else {told}
            problems |= {problem_at(assembly.recipe, built[name].spec.key, _TEXT + text): None for text in lacks}
        asked.update(assembly.shared)
    if problems:
        raise RecipeError(list(problems))
