"""Headline tiles, and tables of measurements: quality (with intervals and seeds), sizes and speeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import kdtool

from kdtool_report.html.accounts import Money
from kdtool_report.html.wording import (
    ARMS,
    Grouped,
    Measured,
    Subjects,
    arm_order,
    count,
    duration,
    interval,
    is_teacher,
    key_of,
    own_name,
    percent,
    quantity,
    span,
    times,
    title,
)
from kdtool_report.html.wording import name as in_words

_SHOWN_UNITS = frozenset({"fraction", "%", "percent", "bytes", "s", "seconds", "parameters"})
"""Units that the formatted value or the heading shows."""
_TIMED = frozenset({"s", "seconds", "tokens/s", "J/token"})
"""Units of measurements that depend on how they were made."""
COST_UNITS = frozenset({"bytes", "parameters", "s", "seconds", "tokens/s", "tokens", "J/token"})
"""Units of sizes, speeds and costs; all others are quality."""


@dataclass(frozen=True)
class Tile:
    """A headline figure with its label and a note for comparison."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Cell:
    """One arm's result: the mean over seeds with its interval, and each seed's value."""

    value: str
    interval: str
    seeds: str


@dataclass(frozen=True)
class CostCell:
    """One arm's size or speed; `share` is its part of the largest in the row, in percent, `ratio` that to the teacher's."""

    value: str
    interval: str
    share: float
    ratio: str


@dataclass(frozen=True)
class MeasurementRow:
    """One measurement: its unit, the better direction, its number of items, its settings, and a cell per arm."""

    heading: str
    unit: str
    better: str
    items: str
    settings: tuple[tuple[str, str], ...]
    cells: tuple[Cell | CostCell | None, ...]


@dataclass(frozen=True)
class Table:
    """Arms as columns (key and title), measurements as rows."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[MeasurementRow, ...]


def seeds_of(results: kdtool.Results) -> int:
    """Count the seeds that were trained or measured; 0 if there are none."""
    trained = {arm.seed for arm in results.arms if arm.arm == "student"}
    return max([len(trained), *(value.seeds for value in results.values if value.seeds > 1)])


def quality(results: kdtool.Results, subjects: Subjects) -> Table:
    """Tabulate everything except sizes and speeds."""
    return _table(
        [each for each in results.measurements if each.unit not in COST_UNITS],
        subjects,
        lambda row: tuple(None if measured is None else _cell(measured) for measured in row.values()),
    )


def markdown(table: Table) -> str:
    """Return scores as a table in Markdown, to paste: each with its interval, next to the number of items."""
    lines = [["", "n", *(name for _, name in table.columns)], ["---"] * (2 + len(table.columns))]
    for row in table.rows:
        cells = (f"{cell.value} ({cell.interval})".removesuffix(" ()") if cell else "–" for cell in row.cells)
        lines.append([f"{row.heading} {row.unit}".rstrip(), row.items, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def costs(results: kdtool.Results, subjects: Subjects) -> Table:
    """Tabulate sizes and speeds."""
    measured = [each for each in results.measurements if each.unit in COST_UNITS]
    return _table(measured, subjects, lambda row: _cost_cells(row, subjects))


def tiles(results: kdtool.Results, subjects: Subjects, money: Money | None = None) -> list[Tile]:
    """Return the headline figures, without those that were not measured."""
    grouped = subjects.gather(results.measurements)
    seeds = seeds_of(results)
    made = [
        _size(results, grouped),
        *_against_teacher(grouped, subjects),
        *_scores(grouped, subjects),
        Tile("Paid for answers", money.total, f"{money.a_row} an accepted row") if money and money.a_row else None,
        Tile("This run took", duration(results.seconds), kdtool.count_of(seeds, "seed") if seeds else "")
        if results.seconds
        else None,
    ]
    return [tile for tile in made if tile is not None]


def _differently(measured: Measured, other: Measured) -> bool:
    """Return whether two timings were made in different settings."""
    return measured.first.unit in _TIMED and measured.first.settings != other.first.settings


def _table(
    measurements: Iterable[kdtool.Measurement],
    subjects: Subjects,
    cells: Callable[[Mapping[str, Measured | None]], tuple[Cell | CostCell | None, ...]],
) -> Table:
    grouped = subjects.gather(measurements)
    arms = arm_order(arm for by_arm in grouped.values() for arm in by_arm)
    rows = []
    for name, by_arm in grouped.items():
        each = {arm: measured.first for arm, measured in by_arm.items()}
        first, counts = next(iter(each.values())), [measurement.n for measurement in each.values()]
        rows.append(
            MeasurementRow(
                heading=title(name),
                unit="" if first.unit in _SHOWN_UNITS or first.unit == in_words(name) else first.unit,
                better="higher is better" if first.higher_is_better else "lower is better",
                items=" to ".join(count(n) for n in dict.fromkeys([min(counts), max(counts)])),
                settings=tuple(_settings({subjects.title(arm): each[arm].settings for arm in arms if arm in each})),
                cells=cells({arm: by_arm.get(arm) for arm in arms}),
            )
        )
    return Table(tuple((arm, subjects.title(arm)) for arm in arms), tuple(rows))


def _settings(by_arm: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the settings of a measurement; arms, given by their titles, are named if they differ in one."""
    for key in dict.fromkeys(key for settings in by_arm.values() for key in settings):
        arms: dict[str, list[str]] = {}
        for arm in (arm for arm, settings in by_arm.items() if key in settings):
            arms.setdefault(by_arm[arm][key], []).append(arm)
        same = [len(titles) for titles in arms.values()] == [len(by_arm)]
        yield title(key), ", ".join(value if same else f"{value} ({', '.join(arms[value])})" for value in arms)


def _cell(measured: Measured) -> Cell:
    bounds, values, first = measured.bounds, measured.by_seed, measured.first
    unit, no_interval = first.unit, "too few items for an interval" if first.items else ""
    half = (bounds[1] - bounds[0]) / 2 if bounds else None
    each = [quantity(measurement.value, unit, spread=half) for measurement in values.values()]
    shown = interval(*bounds, unit) if bounds else no_interval
    return Cell(quantity(measured.mean, unit, spread=half), shown, ", ".join(each) if len(each) > 1 else "")


def _cost_cells(row: Mapping[str, Measured | None], subjects: Subjects) -> tuple[CostCell | None, ...]:
    largest = max((abs(measured.mean) for measured in row.values() if measured is not None), default=0.0)
    against = next((arm for arm, measured in row.items() if is_teacher(arm) and measured and measured.mean), None)
    teacher = None if against is None else row[against]
    cells: list[CostCell | None] = []
    for arm, measured in row.items():
        if measured is None:
            cells.append(None)
            continue
        unit, bounds = measured.first.unit, measured.bounds
        ratio = ""
        if against is not None and teacher is not None and arm != against:
            otherwise = ", measured otherwise" if _differently(measured, teacher) else ""
            ratio = f"{times(measured.mean / teacher.mean)} {subjects.title(against).lower()}{otherwise}"
        cells.append(
            CostCell(
                quantity(measured.mean, unit),
                span(quantity(bounds[0], unit), quantity(bounds[1], unit)) if bounds else "",
                100 * abs(measured.mean) / largest if largest else 0.0,
                ratio,
            )
        )
    return tuple(cells)


def _size(results: kdtool.Results, grouped: Grouped) -> Tile | None:
    measured = grouped.get(key_of(grouped, "parameters"), {})
    sizes = {arm: value.mean for arm, value in measured.items()}
    for arm in ("student", "teacher"):
        facts = results.models.get(arm)
        if facts is not None:
            sizes.setdefault(arm, float(facts.parameters))
    if "student" not in sizes:
        return None
    if not sizes.get("teacher"):
        return Tile("Student", quantity(sizes["student"], "parameters"), "parameters")
    share = percent(sizes["student"] / sizes["teacher"])
    return Tile(
        "Student's size",
        quantity(sizes["student"], "parameters"),
        f"parameters, {share} of the teacher's {quantity(sizes['teacher'], 'parameters')}",
    )


def _against_teacher(grouped: Grouped, subjects: Subjects) -> Iterable[Tile | None]:
    for name, label, word in (
        ("decode-speed", "Generates", "the teacher's speed"),
        ("peak-memory", "Memory", "of the teacher's"),
    ):
        by_arm = grouped.get(key_of(grouped, name), {})
        # Prefer exports to the student, and subjects measured in the same way as the teacher.
        known = [*(arm for arm in by_arm if subjects.is_exported(arm)), *({"student"} & by_arm.keys())]
        if name == "decode-speed" and any("busy" in measured.first.settings for measured in by_arm.values()):
            continue  # such speeds are not to be compared
        if not known or "teacher" not in by_arm or not by_arm["teacher"].mean:
            continue
        shown_arm = min(known, key=lambda arm: _differently(by_arm[arm], by_arm["teacher"]))
        unit = by_arm[shown_arm].first.unit
        student, teacher = by_arm[shown_arm].mean, by_arm["teacher"].mean
        suffix = "" if unit == "bytes" else f" {unit}"
        if name == "decode-speed":
            otherwise = ", measured otherwise" if _differently(by_arm[shown_arm], by_arm["teacher"]) else ""
            note = f"{word}: {quantity(student, unit)}{suffix} against {quantity(teacher, unit)}{otherwise}"
            yield Tile(label, times(student / teacher), note)
        else:
            yield Tile(label, quantity(student, unit), f"at its peak, {percent(student / teacher)} {word}")


def _scores(grouped: Grouped, subjects: Subjects) -> Iterable[Tile]:
    for name, arms in grouped.items():
        if "student" not in arms:
            continue
        first = arms["student"].first
        if first.unit in COST_UNITS or first.texts or own_name(name) == "bits-per-byte":
            continue
        others = [
            f"{subjects.title(arm).lower()} {quantity(arms[arm].mean, first.unit)}"
            for arm in ARMS
            if arm != "student" and arm in arms
        ]
        note = "; ".join(others) or f"over {count(first.n)} items"
        yield Tile(title(name), quantity(arms["student"].mean, first.unit), note)


FROM_ZERO = frozenset({"fraction", "%", "percent"})
"""Ratio-scale units, in which a score can be divided."""


def plain_export(grouped: Grouped, subjects: Subjects) -> str:
    """Return the exported folder: the export with counted parameters, else the largest; "student" if there is none."""
    sizes = grouped.get(key_of(grouped, "parameters")) or grouped.get(key_of(grouped, "file-size"), {})
    exported = [arm for arm in sizes if subjects.is_exported(arm)]
    return max(exported, key=lambda arm: sizes[arm].mean, default="student")
