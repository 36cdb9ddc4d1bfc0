"""Equal tokens of student and control, without which the verdict would be wrong: compared before and after training.

On-policy text is shorter than the rows that it replaces, so that the control may train on more tokens than the student.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.on_policy import on_policy_key
from kdtool._contract.run_info import RunInfo
from kdtool._errors import UsageError
from kdtool._recipe.layers import as_written
from kdtool._run.context import Context
from kdtool._run.graph import Stage
from kdtool._run.preflight.run_forecast import Asked, Known, ask, run_forecast_of
from kdtool._run.stages.phases import Arm


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


def refuse_uneven(assembly: Assembly, asked: Iterable[Asked]) -> None:
    """Refuse a control that would train on more or fewer tokens than the student in a phase, as far as estimates exist.

    Raises:
        UsageError: they differ, in a recipe without on-policy text.
    """
    found = {arm: Counter[str]() for arm in ("student", "control")}
    for part in asked:
        if part.arm in found:
            found[part.arm][part.phase] += part.estimate.tokens
    for phase, student in found["student"].items():
        control = found["control"][phase]
        if student and control and student != control and not on_policy_keys(assembly):
            raise _uneven(f"it would train on {control:,} tokens in phase {phase!r}, the student on {student:,}")


def refuse_uneven_ahead(context: Context, run: RunInfo) -> None:
    """Ask for estimates and refuse as `refuse_uneven`, where the control has a trainer of its own; before a run begins."""
    assembly = context.assembly
    trainers = [
        [assembly.built[phase.trainer.key].config for phase in assembly.arms.get(arm, ()) if phase.trainer]
        for arm in ("student", "control")
    ]
    if trainers[1] and trainers[0] != trainers[1]:
        ahead, unknown = run_forecast_of(context, run, context.hooks.kdtool_describe(run), Known())
        refuse_uneven(assembly, ask(context, run, ahead, unknown))


def refuse_uneven_arms(assembly: Assembly, arms: Sequence[Arm], made: Stage) -> None:
    """Refuse a control that trained on more or fewer tokens than the student, as soon as its last phase is `made`.

    Raises:
        UsageError: they differ, and neither on-policy text nor early stopping explains it.
    """
    control = next((arm for arm in arms if arm.arm == "control" and arm.nodes[-1].stage == made), None)
    if control is None:
        return
    student = next(arm for arm in arms if (arm.arm, arm.seed) == ("student", made.seed))
    early = min(student.share_of_steps(), control.share_of_steps()) < 1
    given, seen = (sum(report.tokens for report in arm.reports()) for arm in (control, student))
    if given != seen and not early and not (given > seen and on_policy_keys(assembly)):
        raise _uneven(f"it trained on {given:,} tokens, the student on {seen:,}")


def _uneven(found: str) -> UsageError:
    return UsageError(f"control: {found}; give the control's trainer the same batch and accumulation")
