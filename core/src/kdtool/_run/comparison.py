"""Student against control: paired over items and seeds, with a 95 % interval from a bootstrap over both.

A measurement's items are {"item", "sum", "weight"}; its value is transform(Σ sum / Σ weight). A replicate draws items and
seeds with replacement, the same for both arms (a pair is never torn), and takes the difference of the mean over its
seeds. Percentile interval, 2,000 replicates, seeded. Source: Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapters 8 and 13.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Literal, TypeVar

from kdtool._contract.models import Measurement, Subject
from kdtool._errors import PluginError
from kdtool._run.results import Comparison

__all__ = ["compare", "compare_all", "interval", "read_items"]

REPLICATES = 2000
Verdict = Literal["better", "worse", "no evidence of a difference"]
Items = Mapping[str, tuple[float, float]]
T = TypeVar("T")


def compare_all(
    measurements: Sequence[Measurement], subjects: Sequence[Subject], arms: Mapping[str, str]
) -> list[Comparison]:
    """Compare the student with every control on every measurement that has items for both.

    Args:
        measurements: all of the run.
        subjects: by which a measurement's subject is known to be of an arm and a seed.
        arms: the arm of each subject's name; others (exported files) are not compared.
    """
    by: dict[tuple[str, str], dict[int, Measurement]] = defaultdict(dict)
    seeds = {subject.name: subject.seed for subject in subjects}
    for measurement in measurements:
        seed = seeds.get(measurement.subject)
        arm = arms.get(measurement.subject)
        if measurement.items is not None and seed is not None and arm is not None:
            by[measurement.name, arm][seed] = measurement
    found = []
    for (name, arm), controls in by.items():
        students = by.get((name, "student"), {})
        shared = sorted(students.keys() & controls.keys())
        if arm != "student" and shared:
            found.append(compare(arm, [(students[seed], controls[seed]) for seed in shared]))
    return found


def compare(control: str, pairs: Sequence[tuple[Measurement, Measurement]]) -> Comparison:
    """Compare student and control, one pair of measurements a seed, paired by item.

    Raises:
        PluginError: the pairs share no item.
    """
    first = pairs[0][0]
    tables = [(read_items(student.items), read_items(other.items)) for student, other in pairs]
    names = sorted(set.intersection(*(set(table) for pair in tables for table in pair)))
    if not names:
        remedy = "an evaluator gives the same item ids for every subject"
        raise PluginError(f"the measurement {first.name!r} of student and {control} shares no items; {remedy}")
    columns = [tuple([table[name] for name in names] for table in pair) for pair in tables]
    everything = list(range(len(names)))
    draws = _draws(f"{first.name} {control}", everything, columns)
    low, high = _bounds(_difference(chosen, drawn, first.transform) for drawn, chosen in draws)
    student_value, control_value = (
        _mean([pair[side] for pair in columns], everything, first.transform) for side in (0, 1)
    )
    return Comparison(
        measurement=first.name,
        control=control,
        student_value=student_value,
        control_value=control_value,
        difference=_difference(columns, everything, first.transform),
        low=low,
        high=high,
        relative=first.transform == "exp",
        verdict=_verdict(low, high, higher_is_better=first.higher_is_better),
        seeds=len(pairs),
        items=len(names),
    )


def interval(measurements: Sequence[Measurement]) -> tuple[float, float] | None:
    """Return the 95 % interval of one arm's mean over its seeds, from the same bootstrap; None where items are missing.

    Args:
        measurements: one a seed.
    """
    first = measurements[0]
    tables = [read_items(measurement.items) for measurement in measurements]
    names = sorted(set.intersection(*map(set, tables)))
    if not names:
        return None
    columns = [[table[name] for name in names] for table in tables]
    draws = _draws(first.name, list(range(len(names))), columns)
    return _bounds(_mean(chosen, drawn, first.transform) for drawn, chosen in draws)


def read_items(path: Path | None) -> Items:
    """Return a measurement's items: sum and weight by name; none where there is no file."""
    if path is None:
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["item"]: (row["sum"], row["weight"]) for row in rows}


def _draws(seed: str, items: Sequence[int], columns: Sequence[T]) -> Iterator[tuple[list[int], list[T]]]:
    """Draw items and seeds with replacement, once for each replicate."""
    generator = random.Random(seed)
    for _ in range(REPLICATES):
        drawn = generator.choices(items, k=len(items))
        yield drawn, generator.choices(columns, k=len(columns))


def _bounds(replicates: Iterable[float]) -> tuple[float, float]:
    ordered = sorted(replicates)
    return ordered[int(0.025 * REPLICATES)], ordered[int(0.975 * REPLICATES) - 1]


def _value(column: Sequence[tuple[float, float]], drawn: Sequence[int], transform: str) -> float:
    total = weight = 0.0
    for index in drawn:
        total += column[index][0]
        weight += column[index][1]
    mean = total / weight if weight else 0.0
    return exp(mean) if transform == "exp" else mean


def _mean(columns: Sequence[Sequence[tuple[float, float]]], drawn: Sequence[int], transform: str) -> float:
    return sum(_value(column, drawn, transform) for column in columns) / len(columns)


def _difference(
    columns: Sequence[tuple[Sequence[tuple[float, float]], ...]], drawn: Sequence[int], transform: str
) -> float:
    student, control = (_mean([pair[side] for pair in columns], drawn, transform) for side in (0, 1))
    return student / control - 1 if transform == "exp" else student - control


def _verdict(low: float, high: float, *, higher_is_better: bool) -> Verdict:
    if low <= 0 <= high:
        return "no evidence of a difference"
    return "better" if (low > 0) == higher_is_better else "worse"
