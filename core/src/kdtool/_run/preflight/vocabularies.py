"""Vocabularies of the student and of every teacher that a loss compares it with, checked before anything is loaded.

Losses that do not work across vocabularies (`same_vocabulary`) are refused where these differ, or the tokens before a
document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.dependencies import taken_by
from kdtool._assembly.checks.on_policy import on_policy_key
from kdtool._assembly.checks.teacher_signals import teachers_of
from kdtool._contract.loss import Loss, SequenceLoss
from kdtool._contract.run_info import RunInfo
from kdtool._contract.tokenizer import Tokenizer
from kdtool._errors import Problem, RecipeError, ServiceError
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import ComponentSpec, PhaseSpec, problem_at
from kdtool._run.context import Context
from kdtool._tokenizers.vocabulary import Vocabularies

_REMEDY = "use a student that inherits the teacher's tokenizer, or a loss that works across vocabularies"


def compare_with_teachers(context: Context, run: RunInfo) -> dict[str, Vocabularies | None]:
    """Compare the student's tokenizer with those of the teachers that losses learn from, by teacher.

    The known ones are added to `context.vocabularies`. In a forecast, None stands for tokenizers that are not on this
    machine.

    Raises:
        RecipeError: a loss compares tokens of different vocabularies.
        ServiceError: a tokenizer is not on this machine and cannot be fetched.
    """
    (student,) = context.assembly.of_kind("student")
    compared: dict[str, Vocabularies | None] = {}
    starts: dict[str, str] = {}
    for teacher in dict.fromkeys(name for _, _, _, teachers in _learning(context.assembly) for name in teachers):
        compared[teacher] = None
        with suppress(ServiceError) if context.forecast else nullcontext():
            learner, expert = (context.tokenizer_of(name, run) for name in (student, teacher))
            compared[teacher] = Vocabularies.compare(learner, expert)
            if learner.document_start != expert.document_start:
                starts[teacher] = f"begins documents with {_start(expert)}, and the student with {_start(learner)}"
    if problems := list(dict.fromkeys(_problems(context.assembly, compared, starts))):
        raise RecipeError(problems)
    context.vocabularies.update({name: vocabularies for name, vocabularies in compared.items() if vocabularies})
    return compared


def describe_vocabularies(found: Mapping[str, Vocabularies | None]) -> tuple[str, ...]:
    """Return a line for the user for each teacher whose vocabulary is not, or may not be, the student's own."""
    sentences = (
        f"that of {name} is compared when a run begins, since its tokenizer is not on this machine yet"
        if vocabularies is None
        else vocabularies.sentence("the student", name)
        for name, vocabularies in found.items()
    )
    return tuple(f"vocabularies: {sentence}" for sentence in sentences if sentence)


def _start(tokenizer: Tokenizer) -> str:
    names = tokenizer.tokens()
    return " ".join(repr(names[index]) for index in tokenizer.document_start) or "no token"


def _problems(
    assembly: Assembly, compared: Mapping[str, Vocabularies | None], starts: Mapping[str, str]
) -> Iterator[Problem]:
    for phase, spec, loss, teachers in _learning(assembly):
        on_policy = on_policy_key(phase, assembly.built)
        known = {name: vocabularies for name in teachers if (vocabularies := compared[name]) is not None}
        across = isinstance(loss, SequenceLoss) and not loss.same_vocabulary
        for name, vocabularies in known.items():
            sentence = vocabularies.sentence("the student", name)
            if not across and not vocabularies.comparable:
                yield problem_at(assembly.recipe, spec.key, f"compares token by token, but {sentence}", _REMEDY)
            elif not across and name in starts:
                yield problem_at(
                    assembly.recipe, spec.key, f"compares token by token, but {name} {starts[name]}", _REMEDY
                )
            if on_policy and (not vocabularies.comparable or vocabularies.sizes[0] > vocabularies.shared):
                message = f"needs {name} to score on-policy text, but {sentence}"
                remedy = f"use a student without tokens that {name} lacks, or leave `{as_written(on_policy)}` out"
                yield problem_at(assembly.recipe, spec.key, message, remedy)
        if len({vocabularies.shared for vocabularies in known.values()}) > 1:
            shared = ", ".join(f"{name} {vocabularies.shared:,}" for name, vocabularies in known.items())
            message = f"mixes teachers that have different numbers of tokens in common with the student: {shared}"
            yield problem_at(assembly.recipe, spec.key, message, "name teachers with the same tokens")


def _learning(assembly: Assembly) -> Iterator[tuple[PhaseSpec, ComponentSpec, Loss, list[str]]]:
    """Yield every loss of the student that learns from teachers, with its phase and these."""
    for phase in assembly.arms["student"]:
        for spec in phase.losses:
            loss = assembly.built[spec.key].component
            if isinstance(loss, Loss) and (teachers := teachers_of(spec, loss, phase)):
                named = [teacher.path for teacher, _ in teachers]
                yield phase, spec, loss, [*named, *taken_by(named, assembly.shared)]
