"""Seconds a token, from an earlier run of the same name with the same student and trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kdtool._assembly.assemble import Assembly
from kdtool._contract.language_model import ModelFacts
from kdtool._errors import KdtoolError
from kdtool._estimate.run_forecast import AttributedEstimate
from kdtool._results.files import component_record, read_results


def apply_earlier_speed(
    asked: list[AttributedEstimate], assembly: Assembly, models: Mapping[str, ModelFacts], folder: Path
) -> list[AttributedEstimate]:
    """Return the parts with the speed of the finished run in `folder`, in phases with unchanged settings."""
    try:
        before = read_results(folder)
    except KdtoolError:
        return asked
    (student,) = assembly.of_kind("student")
    if student not in models or before.models.get(student) != models[student]:
        return asked
    configs = {record.name: record.config for record in before.components}
    speeds: dict[tuple[str, str, str], float] = {}
    for arm in before.arms:
        for phase in assembly.arms.get(arm.arm, ()):
            trained, spec = arm.phases.get(phase.name), phase.trainer
            if trained is None or spec is None or not trained.tokens:
                continue
            if configs.get(spec.path) == component_record(assembly.built[spec.key]).config:
                speeds[arm.arm, phase.name, spec.path] = trained.seconds / trained.tokens
    return [_with_speed(part, speeds.get((part.arm, part.phase, part.component)), folder) for part in asked]


def _with_speed(part: AttributedEstimate, speed: float | None, folder: Path) -> AttributedEstimate:
    if speed is None or not part.estimate.seconds:
        return part
    note = f"from the run in {folder}: {1 / max(speed, 1e-12):,.0f} tokens/s"
    return replace(part, estimate=replace(part.estimate, seconds=speed * part.estimate.tokens, note=note))
