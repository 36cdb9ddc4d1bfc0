"""Scores: what evaluators measure of teacher, student and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from kdtool._contract.kinds import Evaluator
from kdtool._contract.models import Measurement, Subject
from kdtool._contract.training import RunInfo
from kdtool._run.context import Context, Stage
from kdtool._run.fingerprint import fingerprint

__all__ = ["score"]

_MEASUREMENT: TypeAdapter[Measurement] = TypeAdapter(Measurement)
_FILE = "measurements.jsonl"


def score(context: Context, subjects: Mapping[Subject, str], surroundings: Mapping[str, str]) -> list[Measurement]:
    """Measure all subjects with all evaluators.

    Args:
        context: the run.
        subjects: what is measured, with the fingerprint of each.
        surroundings: fingerprints of what every score depends on (texts, teachers).
    """
    found: list[Measurement] = []
    for name, evaluator in context.assembly.named("evaluator").items():
        together = isinstance(evaluator, Evaluator) and evaluator.together
        groups = [tuple(subjects)] if together else [(subject,) for subject in subjects]
        for group in groups:
            found.extend(_score_group(context, name, group, {s.name: subjects[s] for s in group}, surroundings))
    return found


def _score_group(
    context: Context,
    name: str,
    group: Sequence[Subject],
    prints: Mapping[str, str],
    surroundings: Mapping[str, str],
) -> list[Measurement]:
    short = name.rpartition(".")[2]
    label = short if len(group) > 1 else f"{short}-{group[0].name}"
    print_of = fingerprint("scores", evaluator=context.part(name), subjects=dict(prints), **surroundings)

    def build(run: RunInfo, folder: Path) -> None:
        lines = []
        for measurement in run.hook.kdtool_evaluate.of(name)(run, group) or ():
            items = measurement.items and Path(measurement.items).relative_to(folder)
            lines.append(_MEASUREMENT.dump_json(replace(measurement, items=items)).decode())
        (folder / _FILE).write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    stage = Stage("scores", label, total=None, unit="documents")
    artefact = context.make(context.own, stage, print_of, build)
    measurements = []
    for line in (artefact.path / _FILE).read_text(encoding="utf-8").splitlines():
        measurement = _MEASUREMENT.validate_json(line)
        measurement = replace(measurement, items=measurement.items and artefact.path / measurement.items)
        context.hooks.kdtool_measured(context.info(stage, context.folder), measurement)
        measurements.append(measurement)
    return measurements
