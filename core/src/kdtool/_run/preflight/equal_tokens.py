"""Equal tokens of student and control, without which the verdict would be wrong: compared before and after training.

On-policy text is shorter than the rows that it replaces, so that the control may train on more tokens than the student.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.on_policy import on_policy_key
from kdtool._contract.trainer import Trainer
from kdtool._errors import UsageError
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import PhaseSpec
from kdtool._run.distributed import rank_and_world
from kdtool._run.graph import Node
from kdtool._run.stages.phases import TrainedModel


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
        raise _uneven(f"it trained on {given:,} tokens, the student on {seen:,}")


def _uneven(found: str) -> UsageError:
    return UsageError(f"control: {found}; give the control's trainer the same batch and accumulation")
