"""Conditions of fair comparisons: vocabularies of student and teachers, and equal tokens of student and control.

Losses that do not work across vocabularies (`same_vocabulary`) are refused where these differ, or the tokens before a
document; this is checked before anything is loaded. Without equal tokens of student and control the verdict would be
wrong: they are compared before and after training. On-policy text is shorter than the rows that it replaces, so that the
control may train on more tokens than the student.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks import taken_by
from kdtool._assembly.signals import on_policy_key, teachers_of
from kdtool._contract.language_model import ModelFacts, Tokenizer
from kdtool._contract.loss import Loss, SequenceLoss
from kdtool._contract.run_info import RunInfo
from kdtool._contract.sources import Packer
from kdtool._contract.training import Trainer
from kdtool._errors import Problem, RecipeError, ServiceError, UsageError
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import ComponentSpec, PhaseSpec, of_kind, problem_at
from kdtool._run.context import Context
from kdtool._run.graph import Node
from kdtool._run.ranks import rank_and_world
from kdtool._run.stages.phases import TrainedModel
from kdtool._text.terminal import count_of
from kdtool._tokenizers import Vocabularies

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


def row_length(assembly: Assembly, phase: PhaseSpec) -> int:
    """Return the tokens in a row of a phase, 0 if unknown."""
    (packer,) = of_kind(phase.sources, "packer")
    component = assembly.shared[packer.path]
    return component.row_length if isinstance(component, Packer) else 0


def require_windows(assembly: Assembly, models: Mapping[str, ModelFacts]) -> None:
    """Refuse rows that are longer than what the student, or a teacher that it learns from, reads at once.

    Raises:
        RecipeError: there are such rows.
    """
    (student,) = assembly.of_kind("student")
    learning = [(phase, name) for phase, _, _, teachers in _learning(assembly) for name in teachers]
    problems = []
    for phase, name in [*((phase, student) for phase in assembly.arms["student"]), *learning]:
        (packer,) = of_kind(phase.sources, "packer")
        length = row_length(assembly, phase)
        if name in models and 0 < models[name].context < length - 1:  # the last token is only predicted
            context = models[name].context
            message = f"makes rows of {count_of(length, 'token')}, but {name} reads {context:,} at most"
            problems.append(problem_at(assembly.recipe, packer.key, message, f"set its length to {context} or less"))
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))


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


def on_policy_keys(assembly: Assembly) -> tuple[str, ...]:
    """Return the keys by which the student's phases train on-policy, as the user wrote them."""
    found = (on_policy_key(phase, assembly.built) for phase in assembly.arms["student"])
    return tuple(dict.fromkeys(as_written(key) for key in found if key is not None))


def describe_on_policy(assembly: Assembly) -> tuple[str, ...]:
    """Return a line for the user, where there is a control, for each of the keys."""
    return tuple(
        f"{key}: the control trains on the same rows without on-policy text; this is mostly shorter than the rows that it "
        "replaces, so the control trains on as many tokens or more"
        for key in (on_policy_keys(assembly) if len(assembly.arms) > 1 else ())
    )


def refuse_uneven_trainers(assembly: Assembly) -> None:
    """Refuse a control whose trainer takes steps of another size than the student's, where both trainers declare it.

    Raises:
        UsageError: they differ, in a recipe without on-policy text.
    """
    controls = {phase.name: _rows_per_step(assembly, phase) for phase in assembly.arms.get("control", ())}
    for phase in assembly.arms["student"]:
        student, control = _rows_per_step(assembly, phase), controls.get(phase.name)
        if student and control and student != control and not on_policy_keys(assembly):
            raise _uneven(
                f"it would train on {control:,} rows per step in phase {phase.name!r}, the student on {student:,}"
            )


def _rows_per_step(assembly: Assembly, phase: PhaseSpec) -> int:
    trainer = assembly.built[phase.trainer.key].component if phase.trainer else None
    if not isinstance(trainer, Trainer):
        return 0
    return trainer.rows_per_step * (1 if trainer.elastic else rank_and_world()[1])


def refuse_uneven_arms(assembly: Assembly, arms: Sequence[TrainedModel], made: Node) -> None:
    """Refuse a control that trained on more or fewer tokens than the student, once the last phases of both are `made`.

    Raises:
        UsageError: they differ, and neither on-policy text nor early stopping explains it.
    """
    pair = [arm for name in ("student", "control") for arm in arms if (arm.arm, arm.seed) == (name, made.seed)]
    last = [arm.nodes[-1] for arm in pair]
    if len(pair) < 2 or made not in last or not all(node.exists for node in last):
        return
    student, control = pair
    early = min(student.share_of_steps(), control.share_of_steps()) < 1
    given, seen = (sum(report.tokens for report in arm.reports()) for arm in (control, student))
    if given != seen and not early and not (given > seen and on_policy_keys(assembly)):
        raise _uneven(f"it trained on {count_of(given, 'token')}, the student on {seen:,}")


def _uneven(found: str) -> UsageError:
    return UsageError(f"control: {found}; give the control's trainer the same batch and accumulation")
