"""Model cards: an exporter's description of its artefact, and below it the measurements of this run.

A card is README.md in the artefact's folder, or beside its file. It does not belong to the artefact: measuring comes later,
and another evaluator changes the card and not the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from kdtool._contract.evaluation import Artifact, Measurement, Subject
from kdtool._contract.reporting import Results
from kdtool._store.atomic_files import write_beside
from kdtool._text.markdown import markdown_table, measurement_title, number, number_range

CARD = "README.md"
"""The name that hubs look for."""
_ORDER = ("student", "control", "base", "teacher")


def card_of(artifact: Artifact) -> Path:
    """Return where an artefact's card is: in its folder, or beside its file."""
    return (artifact.path if artifact.path.is_dir() else artifact.path.parent) / CARD


def write_card(artifact: Artifact, results: Results | None = None) -> None:
    """Write the card of an artefact that has one; with `results`, its measurements follow."""
    if artifact.card:
        lines = _measurements(artifact, results) if results else ()
        write_beside(card_of(artifact), "\n".join([artifact.card.rstrip("\n"), *lines]) + "\n")


def _measurements(artifact: Artifact, results: Results) -> Iterator[str]:
    """Yield the section on measurements of the artefact or its student; nothing where neither was measured."""
    found = {(one.name, one.subject): one for one in results.measurements}
    columns = _columns(artifact, results)
    named: dict[str, Measurement] = {}
    for subject in columns.values():
        if subject.role in ("artifact", "student"):
            named |= {name: one for (name, of), one in found.items() if of == subject.name and name not in named}
    if not named:
        return
    yield from ("", "## What was measured", "")
    before = "" if "this model" in columns else " The model itself was not: the student is what it was exported from."
    yield f"By kdtool in the run `{results.name}`; in brackets 95 % intervals over the measured items.{before}"
    rows = [
        [
            measurement_title(name, one.unit, higher_is_better=one.higher_is_better),
            *(_cell(found.get((name, subject.name))) for subject in columns.values()),
        ]
        for name, one in named.items()
    ]
    yield from ("", markdown_table(["measurement", *columns], rows), "", results.verdict)
    yield from ("", "<details><summary>How it was measured</summary>", "", "```json")
    settings = json.dumps({name: dict(one.settings) for name, one in named.items()}, indent=1, ensure_ascii=False)
    yield settings.replace("`", "\\u0060")  # the same text in JSON, which cannot end the fence
    yield from ("```", "", "</details>")


def _columns(artifact: Artifact, results: Results) -> dict[str, Subject]:
    """Return the artefact, if it was measured, then the student and controls of its seed, and the teachers."""
    itself = next(one for one in results.subjects if one.path == artifact.path)
    measured = any(one.subject == itself.name for one in results.measurements)
    others = [one for one in results.subjects if one.role != "artifact" and one.seed in (None, itself.seed)]
    others.sort(key=lambda one: _ORDER.index(one.role))
    return {**({"this model": itself} if measured else {}), **{one.name: one for one in others}}


def _cell(one: Measurement | None) -> str:
    if one is None:
        return "–"
    bounds = number_range(one.low, one.high)
    return f"{number(one.value)} ({bounds})" if bounds else number(one.value)
