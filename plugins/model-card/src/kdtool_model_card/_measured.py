"""Tables of what the run measured of the files, the student, its controls and its teachers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import kdtool

from kdtool_model_card._text import machine, number, percent, public, size, table
from kdtool_model_card._use import CardFile

__all__ = ["COST", "RISK", "file_table", "is_of", "measurements", "subject_of"]

COST = (
    "file-size", "parameters", "time-to-first-token", "prefill-speed", "decode-speed", "peak-memory", "resident-memory",
    "peak-device-memory", "energy-per-token", "break-even",
)  # fmt: skip
"""Measurements of what a model costs its user."""
RISK = ("memorised", "longest-copy", "memorisation", "contamination")
"""Measurements of what a model repeats of its training text, and of benchmarks found in that text."""
_ORDER = ("student", "control", "base", "teacher")


def is_of(group: Sequence[str], measurement: str) -> bool:
    """Return whether a measurement belongs to a group of names."""
    return measurement.partition(".")[0] in group


def subject_of(results: kdtool.Results, artifact: kdtool.Artifact) -> kdtool.Subject | None:
    """Return the measured subject that an artefact is."""
    return next((one for one in results.subjects if one.role == "artifact" and one.path == artifact.path), None)


def measurements(results: kdtool.Results, files: Sequence[CardFile]) -> Iterator[str]:
    """Yield the tables of quality and of memorisation and contamination, and how they were made."""
    columns = _columns(results, files)
    wanted: dict[str, kdtool.Measurement] = {}
    for subject in columns.values():  # files first
        for one in results.measurements if subject.role in ("artifact", "student") else ():
            if one.subject == subject.name and not is_of(COST, one.name):
                wanted.setdefault(one.name, one)
    if not wanted:
        yield "Not measured."
        return
    yield f"By kdtool in the run `{results.name}`; in brackets 95 % intervals over the measured items."
    if not any(one.role == "artifact" for one in columns.values()):
        yield "The files themselves were not measured: the student is what they were exported from."
    yield from ("", _table(results, columns, [one for one in wanted.values() if not is_of(RISK, one.name)]))
    if risk := [one for one in wanted.values() if is_of(RISK, one.name)]:
        yield from ("", "### Memorisation and contamination", "", _table(results, columns, risk))
    yield from ("", results.verdict)
    yield from ("", "<details><summary>How it was measured</summary>", "", "```json")
    settings = {name: public(one.settings) for name, one in wanted.items()}
    yield json.dumps(settings, indent=1, ensure_ascii=False).replace("`", "\\u0060")  # cannot end the fence
    yield from ("```", "", "</details>")


def file_table(results: kdtool.Results, files: Sequence[CardFile]) -> Iterator[str]:
    """Yield the table of files with their sizes, and of what each costs where that was measured."""
    subjects = {one.place: subject_of(results, one.artifact) for one in files}
    names = {one.name for one in subjects.values() if one is not None}
    known = {(one.name, one.subject): one for one in results.measurements}
    costs = {one.name: one for one in results.measurements if is_of(COST[1:], one.name) and one.subject in names}
    rows = []
    for file in files:
        subject = subjects[file.place]
        found = [known.get((name, subject.name)) if subject else None for name in costs]
        artifact = file.artifact
        rows.append(
            [
                _place_in_words(file),
                artifact.format,
                artifact.quantisation or "–",
                size(artifact.bytes),
                *map(_value, found),
            ]
        )
    yield table(
        ["file", "format", "quantisation", "size", *(f"{one.name} ({one.unit})" for one in costs.values())], rows
    )
    if costs:
        yield f"\nMeasured on {machine(results)}."
    else:
        yield "\nSpeed, memory and energy of the files were not measured."


def _place_in_words(file: CardFile) -> str:
    return "this folder" if file.place == "." else f"`{file.place}`"


def _columns(results: kdtool.Results, files: Sequence[CardFile]) -> dict[str, kdtool.Subject]:
    """Return the files that were measured, then the student and controls of their seed, and the teachers, by heading."""
    measured = {one.subject for one in results.measurements}
    found = {_place_in_words(file): subject_of(results, file.artifact) for file in files}
    own = {shown: one for shown, one in found.items() if one is not None and one.name in measured}
    if len(files) == 1:
        own = dict(zip(["this model"], own.values(), strict=False))
    others = [one for one in results.subjects if one.role != "artifact" and one.seed in (None, results.arms[0].seed)]
    others.sort(key=lambda one: _ORDER.index(one.role))
    return {**own, **{one.name: one for one in others if one.name in measured}}


def _table(results: kdtool.Results, columns: dict[str, kdtool.Subject], wanted: Sequence[kdtool.Measurement]) -> str:
    found = {(one.name, one.subject): one for one in results.measurements}
    shares = {one.measurement: one for one in results.comparisons if one.arm == "student" and one.share is not None}
    rows = []
    for one in wanted:
        direction = "higher" if one.higher_is_better else "lower"
        title = ", ".join(filter(None, (one.name, one.unit, f"{direction} is better")))
        cells = [_value(found.get((one.name, subject.name))) for subject in columns.values()]
        share = shares.get(one.name)
        rows.append([title, *cells, *([_share(share)] if shares else [])])
    return table(["measurement", *columns, *(["student, % of the teacher"] if shares else [])], rows)


def _share(comparison: kdtool.Comparison | None) -> str:
    if comparison is None or comparison.share is None:
        return "–"
    value, low, high = comparison.share
    bounds = f" ({percent(low)} to {percent(high)})" if low is not None and high is not None else ""
    return f"{percent(value)}{bounds}"


def _value(one: kdtool.Measurement | None) -> str:
    if one is None:
        return "–"
    bounds = f" ({number(one.low)} to {number(one.high)})" if one.low is not None and one.high is not None else ""
    return f"{number(one.value)}{bounds}"
