"""Whether student and control are going to train on as many tokens: else the verdict of a run would not be true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kdtool._assembly.assemble import Assembly
from kdtool._contract.run_info import RunInfo
from kdtool._errors import UsageError
from kdtool._run.context import Context
from kdtool._run.preflight.on_policy import on_policy_keys
from kdtool._run.preflight.run_forecast import Asked, Known, ask, run_forecast_of

__all__ = ["refuse_uneven", "refuse_uneven_ahead"]


def refuse_uneven(assembly: Assembly, asked: Iterable[Asked]) -> None:
    """Refuse a control that other settings of its trainer give more or fewer tokens than the student in a phase.

    Nothing is known beforehand of phases without an estimate, nor where there is text of the student's own, which is shorter
    than what it takes the place of.

    Raises:
        UsageError: they differ.
    """
    found = {arm: Counter[str]() for arm in ("student", "control")}
    for part in asked:
        if part.arm in found:
            found[part.arm][part.phase] += part.estimate.tokens
    for phase, student in found["student"].items():
        control = found["control"][phase]
        if student and control and student != control and not on_policy_keys(assembly):
            seen = f"it would train on {control:,} tokens in phase {phase!r}, the student on {student:,}"
            raise UsageError(f"control: {seen}; give the control's trainer the same batch and accumulation")


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
