"""The vocabularies of a run: the student's beside that of every teacher that a loss compares it with.

Called before anything is loaded, by `stages` and by `check`. Losses that do not say that they work across vocabularies are
refused where they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kdtool._assembly import Assembly
from kdtool._contract.kinds import Loss
from kdtool._contract.training import RunInfo
from kdtool._errors import Problem, RecipeError, ServiceError
from kdtool._needs import teacher_of
from kdtool._recipe.model import ComponentSpec, problem_at
from kdtool._run.context import Context
from kdtool._vocabulary import Vocabularies, compare_vocabularies

__all__ = ["compared", "compared_here", "noted"]

_REMEDY = "take a student that inherits the teacher's tokenizer, or a loss that works across vocabularies"


def compared(context: Context, run: RunInfo) -> dict[str, Vocabularies]:
    """Return how the student's tokenizer compares with those of the teachers that losses learn from, by teacher.

    Raises:
        RecipeError: a loss compares tokens of different vocabularies.
        ServiceError: a tokenizer is not on this machine and cannot be fetched.
    """
    teachers = list(dict.fromkeys(teacher.path for _, _, teacher in _learning(context.assembly)))
    found = {teacher: _compared(context, run, teacher) for teacher in teachers}
    _refuse(context.assembly, found)
    return found


def compared_here(context: Context, run: RunInfo) -> dict[str, Vocabularies | None]:
    """Return the same as `compared`, None where a tokenizer is not on this machine: nothing is fetched."""
    found: dict[str, Vocabularies | None] = {}
    for _, _, teacher in _learning(context.assembly):
        try:
            found[teacher.path] = _compared(context, run, teacher.path)
        except ServiceError:
            found[teacher.path] = None
    _refuse(context.assembly, found)
    return found


def noted(found: Mapping[str, Vocabularies | None]) -> tuple[str, ...]:
    """Return a line for the user for each teacher whose vocabulary is not, or may not be, the student's own."""
    sentences = (_sentence(name, vocabularies) for name, vocabularies in found.items())
    return tuple(f"vocabularies: {sentence}" for sentence in sentences if sentence)


def _sentence(teacher: str, vocabularies: Vocabularies | None) -> str:
    if vocabularies is None:
        return f"that of {teacher} is compared when a run begins, since its tokenizer is not on this machine yet"
    return vocabularies.sentence("the student", teacher)


def _compared(context: Context, run: RunInfo, teacher: str) -> Vocabularies:
    (student,) = context.assembly.named("student")
    own, other = (context.hooks.kdtool_tokenizer.of(name)(run) for name in (student, teacher))
    return compare_vocabularies(own, other)


def _refuse(assembly: Assembly, found: Mapping[str, Vocabularies | None]) -> None:
    problems: list[Problem] = []
    for spec, loss, teacher in _learning(assembly):
        vocabularies = found[teacher.path]
        if vocabularies is not None and loss.same_vocabulary and not vocabularies.comparable:
            message = f"compares token by token, but {vocabularies.sentence('the student', teacher.path)}"
            problems.append(problem_at(assembly.recipe, spec.key, message, _REMEDY))
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))


def _learning(assembly: Assembly) -> Iterator[tuple[ComponentSpec, Loss, ComponentSpec]]:
    """Yield every loss of the student that learns from a teacher, with that teacher."""
    for phase in assembly.arms["student"]:
        for spec in phase.losses:
            loss = assembly.built[spec.key].instance()
            if isinstance(loss, Loss) and (teacher := teacher_of(spec, loss, phase)) is not None:
                yield spec, loss, teacher
