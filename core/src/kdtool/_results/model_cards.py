"""Model cards: what an exporter says of its artefact, and below it what this run measured.

A card is README.md in the artefact's folder, or beside its file. It is no part of the artefact: measuring comes later, and
another evaluator changes the card and not the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from kdtool._contract.evaluation import Artifact, Measurement, Subject
from kdtool._contract.reporting import Results
from kdtool._store.atomic_files import write_beside
from kdtool._text.markdown import aligned, number

CARD = "README.md"
"""Where hubs look for it."""

_NOTHING = "–"


def card_of(artifact: Artifact) -> Path:
    """Return where an artefact's card is: in its folder, or beside its file."""
    return (artifact.path if artifact.path.is_dir() else artifact.path.parent) / CARD


def write_card(artifact: Artifact, results: Results | None = None) -> None:
    """Write the card of an artefact that has one; with `results`, what was measured follows."""
    if artifact.card:
        lines = _measured(artifact, results) if results else ()
        write_beside(card_of(artifact), "\n".join([artifact.card.rstrip("\n"), *lines]) + "\n")


def _measured(artifact: Artifact, results: Results) -> Iterator[str]:
    """Yield the section on what was measured of the artefact or its student; nothing where neither was."""
    found = {(one.name, one.subject): one for one in results.measurements}
    columns = _columns(artifact, results)
    own = [name for name, subject in columns.items() if subject.role in ("artifact", "student")]
    named: dict[str, Measurement] = {}
    for column in own:
        named |= {name: one for (name, of), one in found.items() if of == columns[column].name and name not in named}
    if not named:
        return
    yield from ("", "## What was measured", "")
    before = "" if "this model" in columns else " The model itself was not: the student is what it was exported from."
    yield f"By kdtool in the run `{results.name}`; in brackets 95 % intervals over the measured items.{before}"
    rows = [
        [_title(one), *(_cell(found.get((name, subject.name))) for subject in columns.values())]
        for name, one in named.items()
    ]
    yield from ("", aligned(["measurement", *columns], rows), "", results.verdict)
    yield from ("", "<details><summary>How it was measured</summary>", "", "```json")
    settings = json.dumps({name: dict(one.settings) for name, one in named.items()}, indent=1, ensure_ascii=False)
    yield settings.replace("`", "\\u0060")  # as JSON has it: no fence ends there
    yield from ("```", "", "</details>")


def _columns(artifact: Artifact, results: Results) -> dict[str, Subject]:
    """Return who is shown: the artefact where it was measured, of its seed the student and controls, and the teachers."""
    itself = next(one for one in results.subjects if one.path == artifact.path)
    others = [one for one in results.subjects if one.role != "artifact" and one.seed in (None, itself.seed)]
    measured = any(one.subject == itself.name for one in results.measurements)
    return {**({"this model": itself} if measured else {}), **{one.name: one for one in _student_first(others)}}


def _student_first(subjects: Sequence[Subject]) -> list[Subject]:
    return sorted(subjects, key=lambda one: ("student", "control", "teacher").index(one.role))


def _title(one: Measurement) -> str:
    return f"{one.name} ({one.unit}; {'higher' if one.higher_is_better else 'lower'} is better)"


def _cell(one: Measurement | None) -> str:
    if one is None:
        return _NOTHING
    bounds = "" if one.low is None or one.high is None else f" ({number(one.low)} to {number(one.high)})"
    return number(one.value) + bounds
