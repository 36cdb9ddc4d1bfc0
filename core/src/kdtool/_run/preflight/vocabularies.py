"""The vocabularies of a run: the student's beside that of every teacher that a loss compares it with.

Called before anything is loaded. Losses that do not say that they work across vocabularies are refused where they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.on_policy import on_policy_key
from kdtool._assembly.checks.teacher_signals import teachers_of
from kdtool._contract.loss import Loss, SequenceLoss
from kdtool._contract.run_info import RunInfo
from kdtool._errors import Problem, RecipeError, ServiceError
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import ComponentSpec, PhaseSpec, problem_at
from kdtool._run.context import Context
from kdtool._run.tokenizer_of import tokenizer_of
from kdtool._tokenizers.vocabulary import Vocabularies, compare_vocabularies

__all__ = ["compared", "noted"]

_REMEDY = "take a student that inherits the teacher's tokenizer, or a loss that works across vocabularies"


def compared(context: Context, run: RunInfo, *, needed: bool = True) -> dict[str, Vocabularies | None]:
    """Return how the student's tokenizer compares with those of the teachers that losses learn from, by teacher.

    Unless they are `needed`, None stands for tokenizers that are not on this machine.

    Raises:
        RecipeError: a loss compares tokens of different vocabularies.
        ServiceError: a tokenizer that is needed is not on this machine and cannot be fetched.
    """
    (student,) = context.assembly.named("student")
    found: dict[str, Vocabularies | None] = {}
    for teacher in dict.fromkeys(name for _, _, _, teachers in _learning(context.assembly) for name in teachers):
        found[teacher] = None
        with nullcontext() if needed else suppress(ServiceError):
            own, other = (tokenizer_of(context.hooks, name, run) for name in (student, teacher))
            found[teacher] = compare_vocabularies(own, other)
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


def _refuse(assembly: Assembly, found: Mapping[str, Vocabularies | None]) -> None:
    problems: list[Problem] = []
    for phase, spec, loss, teachers in _learning(assembly):
        known = {name: vocabularies for name in teachers if (vocabularies := found[name]) is not None}
        across = isinstance(loss, SequenceLoss) and not loss.same_vocabulary
        for name, vocabularies in known.items():
            if not across and not vocabularies.comparable:
                message = f"compares token by token, but {vocabularies.sentence('the student', name)}"
                problems.append(problem_at(assembly.recipe, spec.key, message, _REMEDY))
            problems.extend(_of_own_text(assembly, phase, spec, name, vocabularies))
        if len({vocabularies.shared for vocabularies in known.values()}) > 1:
            shared = ", ".join(f"{name} {vocabularies.shared:,}" for name, vocabularies in known.items())
            message = f"mixes teachers that have different numbers of tokens in common with the student: {shared}"
            problems.append(problem_at(assembly.recipe, spec.key, message, "name teachers with the same tokens"))
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))


def _of_own_text(
    assembly: Assembly, phase: PhaseSpec, spec: ComponentSpec, teacher: str, found: Vocabularies
) -> Iterator[Problem]:
    """Refuse a teacher that cannot read whatever the student writes."""
    key = on_policy_key(phase, assembly.built)
    if key is not None and (not found.comparable or found.sizes[0] > found.shared):
        message = (
            f"is told by {teacher} about text that the student writes, but {found.sentence('the student', teacher)}"
        )
        remedy = f"take a student without tokens that {teacher} does not have, or leave `{as_written(key)}` out"
        yield problem_at(assembly.recipe, spec.key, message, remedy)


def _learning(assembly: Assembly) -> Iterator[tuple[PhaseSpec, ComponentSpec, Loss, list[str]]]:
    """Yield every loss of the student that learns from teachers, with its phase and these."""
    for phase in assembly.arms["student"]:
        for spec in phase.losses:
            loss = assembly.built[spec.key].instance()
            if isinstance(loss, Loss) and (teachers := teachers_of(spec, loss, phase)):
                yield phase, spec, loss, [teacher.path for teacher, _ in teachers]
