"""Tables of a run's measurements on a card: of the files, the student, its controls and its teachers.

Also numbers, tables and settings as all parts of a card show them, without anything that is private to a machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import kdtool


@dataclass(frozen=True)
class CardFile:
    """An exported file or folder and its `place`, relative to the card; "." for the card's own folder."""

    artifact: kdtool.Artifact
    place: str


COST = (
    "file-size", "parameters", "time-to-first-token", "prefill-speed", "decode-speed", "peak-memory", "resident-memory",
    "peak-device-memory",
)  # fmt: skip
"""Measurements of a model's cost for its user."""
RISK = ("memorised", "longest-copy", "memorisation", "contamination")
"""Measurements of verbatim repetition of training text, and of benchmarks found in that text."""
_ORDER = ("student", "control", "base", "reference", "teacher")


def is_of(group: Sequence[str], measurement: str) -> bool:
    """Return whether a measurement belongs to a group of names."""
    return measurement.partition(".")[0] in group


def subject_of(results: kdtool.Results, artifact: kdtool.Artifact) -> kdtool.Subject | None:
    """Return the measured subject that an artefact is."""
    return next(
        (subject for subject in results.subjects if subject.role == "artifact" and subject.path == artifact.path), None
    )


def measurements(results: kdtool.Results, files: Sequence[CardFile]) -> Iterator[str]:
    """Yield the tables of quality and of memorisation and contamination, and how they were made."""
    columns = _columns(results, files)
    wanted: dict[str, kdtool.Measurement] = {}
    for subject in columns.values():  # files first
        for measured in results.measurements if subject.role in ("artifact", "student") else ():
            if measured.subject == subject.name and not is_of(COST, measured.name):
                wanted.setdefault(measured.name, measured)
    if not wanted:
        yield "Not measured."
        return
    yield f"By kdtool in the run `{results.name}`; in brackets 95 % intervals over the measured items."
    if not any(subject.role == "artifact" for subject in columns.values()):
        yield "The files themselves were not measured: the student is what they were exported from."
    yield from ("", _measured_table(results, columns, [each for each in wanted.values() if not is_of(RISK, each.name)]))
    if risk := [each for each in wanted.values() if is_of(RISK, each.name)]:
        yield from ("", "### Memorisation and contamination", "", _measured_table(results, columns, risk))
    yield from ("", results.verdict)
    yield from ("", "<details><summary>How it was measured</summary>", "", "```json")
    settings = {name: public(each.settings) for name, each in wanted.items()}
    yield json.dumps(settings, indent=1, ensure_ascii=False).replace("`", "\\u0060")  # cannot end the fence
    yield from ("```", "", "</details>")


def file_table(results: kdtool.Results, files: Sequence[CardFile]) -> Iterator[str]:
    """Yield the table of files with their sizes, and with the cost of each if it was measured."""
    subjects = {file.place: subject_of(results, file.artifact) for file in files}
    names = {subject.name for subject in subjects.values() if subject is not None}
    known = {(each.name, each.subject): each for each in results.measurements}
    costs = {each.name: each for each in results.measurements if is_of(COST[1:], each.name) and each.subject in names}
    rows = []
    for file in files:
        subject = subjects[file.place]
        measured = [known.get((name, subject.name)) if subject else None for name in costs]
        artifact = file.artifact
        rows.append(
            [
                _place_in_words(file),
                artifact.format,
                artifact.quantisation or "–",
                size(artifact.bytes),
                *map(_value, measured),
            ]
        )
    yield table(
        ["file", "format", "quantisation", "size", *(f"{cost.name} ({cost.unit})" for cost in costs.values())], rows
    )
    if costs:
        yield f"\nMeasured on {machine(results)}."
    else:
        yield "\nSpeed and memory of the files were not measured."


def _place_in_words(file: CardFile) -> str:
    return "this folder" if file.place == "." else f"`{file.place}`"


def _columns(results: kdtool.Results, files: Sequence[CardFile]) -> dict[str, kdtool.Subject]:
    """Return the files that were measured, then the student and controls of their seed, and the teachers, by heading."""
    measured = {each.subject for each in results.measurements}
    subjects = {_place_in_words(file): subject_of(results, file.artifact) for file in files}
    exported = {
        shown: subject for shown, subject in subjects.items() if subject is not None and subject.name in measured
    }
    if len(files) == 1:
        exported = dict(zip(["this model"], exported.values(), strict=False))
    others = [
        subject
        for subject in results.subjects
        if subject.role != "artifact" and subject.seed in (None, results.arms[0].seed)
    ]
    others.sort(key=lambda subject: _ORDER.index(subject.role))
    return {**exported, **{subject.name: subject for subject in others if subject.name in measured}}


def _measured_table(
    results: kdtool.Results, columns: dict[str, kdtool.Subject], wanted: Sequence[kdtool.Measurement]
) -> str:
    known = {(each.name, each.subject): each for each in results.measurements}
    shares = {
        comparison.measurement: comparison
        for comparison in results.comparisons
        if comparison.arm == "student" and comparison.share is not None
    }
    rows = []
    for row in wanted:
        direction = "higher" if row.higher_is_better else "lower"
        title = ", ".join(filter(None, (row.name, row.unit, f"{direction} is better")))
        cells = [_value(known.get((row.name, subject.name))) for subject in columns.values()]
        share = shares.get(row.name)
        rows.append([title, *cells, *([_share(share)] if shares else [])])
    return table(["measurement", *columns, *(["student, % of the teacher"] if shares else [])], rows)


def _share(comparison: kdtool.Comparison | None) -> str:
    if comparison is None or comparison.share is None:
        return "–"
    value, low, high = comparison.share
    bounds = f" ({percent(low)} to {percent(high)})" if low is not None and high is not None else ""
    return f"{percent(value)}{bounds}"


def _value(measured: kdtool.Measurement | None) -> str:
    if measured is None:
        return "–"
    bounds = (
        f" ({number(measured.low)} to {number(measured.high)})"
        if measured.low is not None and measured.high is not None
        else ""
    )
    return f"{number(measured.value)}{bounds}"


_SECRET = re.compile(r"\b(hf_\w{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,})")


def number(value: float) -> str:
    """Return a number as text: whole if it is large, else with four digits."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.1f} %"


def size(count: int) -> str:
    """Return a number of bytes in decimal units."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:,.2f} {unit}"
    return f"{count} bytes"


def machine(results: kdtool.Results) -> str:
    """Return the machine of a run in words."""
    about = results.environment
    return f"{about.get('system', 'the machine of the run')}, {about.get('processors', 'unknown')} processors"


def cell(value: object) -> str:
    """Return text for a cell of a table: its first line, with bars escaped."""
    return str(value).partition("\n")[0].replace("|", "\\|")


def plain(name: str) -> str:
    """Return a name that a dataset's column contains, without markup; "unknown" if it is empty."""
    return re.sub(r"[\s<>`|\[\]]+", " ", name) or "unknown"


def table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown; "" without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def public(value: Any) -> Any:
    """Return settings without keys and tokens, and with the last part of absolute paths only."""
    if isinstance(value, Mapping):
        return {str(key): public(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if not isinstance(value, str):
        return value if value is None or isinstance(value, bool | int | float) else str(value)
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(value).is_absolute() or value.startswith("~"):
            return kind(value).name
    return _SECRET.sub("[removed]", value)
