"""Model cards: what an exporter says of its artefact, and below it what this run measured.

A card is README.md in the artefact's folder, or beside its file. It is no part of the artefact: measuring comes later, and
another evaluator changes the card and not the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from kdtool._contract.models import Artifact, Measurement, Subject
from kdtool._run.markdown_table import aligned, number
from kdtool._run.results import Results
from kdtool._run.sealed import write_beside

__all__ = ["card_of", "write_card"]

_NOTHING = "–"


def card_of(artifact: Artifact) -> Path:
    """Return where an artefact's card is: in its folder, or beside its file."""
    return (artifact.path if artifact.path.is_dir() else artifact.path.parent) / "README.md"


def write_card(artifact: Artifact, results: Results | None = None) -> None:
    """Write the card of an artefact that has one; with `results`, what was measured follows."""
    if artifact.card:
        lines = _measured(artifact, results) if results else ()
        write_beside(card_of(artifact), "\n".join([artifact.card.rstrip("\n"), *lines]) + "\n")


def _measured(artifact: Artifact, results: Results) -> Iterator[str]:
    """Yield the section on what was measured, of nothing where neither the artefact nor its student was."""
    shown = _shown(artifact, results)
    names = {subject.name for subject in shown.values() if subject.role in ("artifact", "student")}
    names_measured = [found.name for found in results.measurements if found.subject in names]
    if not names_measured:
        return
    found = {(one.name, one.subject): one for one in results.measurements}
    rows = [
        [_title(name, results), *(_cell(found.get((name, subject.name))) for subject in shown.values())]
        for name in dict.fromkeys(names_measured)
    ]
    yield from ("", "## What was measured", "")
    yield (
        f"By kdtool in the run `{results.name}`; in brackets 95 % intervals over the measured items. The student is the "
        "model before it was exported."
    )
    yield from ("", aligned(["measurement", *shown], rows), "", results.verdict)
    settings = {name: dict(_of(name, results).settings) for name in dict.fromkeys(names_measured)}
    yield from ("", "<details><summary>How it was measured</summary>", "", "```json")
    yield json.dumps(settings, indent=1, ensure_ascii=False).replace(
        "`", "\\u0060"
    )  # as JSON has it: no fence ends there
    yield from ("```", "", "</details>")


def _shown(artifact: Artifact, results: Results) -> dict[str, Subject]:
    """Return the columns: the artefact, and of its seed the student and the controls, and the teachers."""
    own = next((one for one in results.subjects if one.path == artifact.path), None)
    others = [one for one in results.subjects if one.role != "artifact" and one.seed in (None, own and own.seed)]
    return {**({"this model": own} if own else {}), **{one.name: one for one in _student_first(others)}}


def _student_first(subjects: Sequence[Subject]) -> list[Subject]:
    return sorted(subjects, key=lambda one: ("student", "control", "teacher").index(one.role))


def _of(name: str, results: Results) -> Measurement:
    return next(one for one in results.measurements if one.name == name)


def _title(name: str, results: Results) -> str:
    one = _of(name, results)
    return f"{name} ({one.unit}; {'higher' if one.higher_is_better else 'lower'} is better)"


def _cell(one: Measurement | None) -> str:
    if one is None:
        return _NOTHING
    bounds = "" if one.low is None or one.high is None else f" ({number(one.low)} to {number(one.high)})"
    return number(one.value) + bounds
