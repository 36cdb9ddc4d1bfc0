"""Texts of subjects: answers to items of benchmarks with verdicts, and samples after the same prompts, side by side.

Items files may include texts to show (`shown`, by label). The page shows the items with the worst results; the files, which
the page names, hold all of them. Samples are those of the first seed of each arm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import kdtool

from kdtool_report.html.wording import Subjects, arm_order, title

_MOST_ITEMS = 32
"""Items of a measurement."""
_MOST_TEXTS = 8
"""Texts of one subject's part of an item: answers and verdicts of a few samples."""
_MOST_CHARACTERS = 2000


@dataclass(frozen=True)
class Shown:
    """One subject's part of an item: its title, its score on the item, and texts by label.

    `left` is the number of texts that are not on the page.
    """

    subject: str
    value: str
    texts: tuple[tuple[str, str], ...]
    left: int


@dataclass(frozen=True)
class Answers:
    """Items of a measurement, worst first, each with every subject's answers.

    `left` is the number of items that are not on the page. `files` hold all; their paths are relative to the run's folder
    if they are inside it.
    """

    heading: str
    items: tuple[tuple[str, tuple[Shown, ...]], ...]
    left: int
    files: tuple[str, ...]


def answers(results: kdtool.Results, subjects: Subjects) -> list[Answers]:
    """Return the measurements whose items have texts to show, in order."""
    measurements = results.measurements
    arms = arm_order(subjects.of(measurement.subject)[0] for measurement in measurements)
    by_name: dict[str, list[kdtool.Measurement]] = {}
    for measurement in sorted(measurements, key=lambda each: arms.index(subjects.of(each.subject)[0])):
        by_name.setdefault(measurement.name, []).append(measurement)
    order = {name: worst for name, group in by_name.items() if (worst := _worst_first(group))}
    titles = {}
    for subject in (measurement.subject for measurement in measurements):
        arm, seed = subjects.of(subject)
        titles[subject] = subjects.title(arm) if seed < 0 else f"{subjects.title(arm)}, seed {seed}"
    return [_items_to_show(name, by_name[name], worst, titles, results.folder) for name, worst in order.items()]


def _worst_first(measurements: Sequence[kdtool.Measurement]) -> list[str]:
    """Return the items with texts to show, sorted by their worst result for any subject."""
    worst: dict[str, float] = {}
    for measurement in measurements:
        for item in _readable(measurement.items):
            value = item["sum"] / item["weight"] if item["weight"] else inf
            value = value if measurement.higher_is_better or value == inf else -value
            worst[item["item"]] = min(value, worst.get(item["item"], inf))
    return sorted(worst, key=lambda name: worst[name])


def _items_to_show(
    name: str, measurements: Sequence[kdtool.Measurement], order: Sequence[str], titles: Mapping[str, str], folder: Path
) -> Answers:
    """Return the first items of an order."""
    parts: dict[str, list[Shown]] = {item: [] for item in order[:_MOST_ITEMS]}
    files = []
    for measurement in measurements:
        for item in _readable(measurement.items):
            if item["item"] in parts:
                parts[item["item"]].append(_show(titles[measurement.subject], item))
        if measurement.items is not None:
            file = measurement.items
            files.append(file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file))
    items = tuple((cut(item), tuple(shown)) for item, shown in parts.items())
    return Answers(name, items, len(order) - len(items), tuple(files))


def _show(subject: str, item: Mapping[str, Any]) -> Shown:
    texts = list(item["shown"].items())
    some = tuple((title(what), cut(str(text))) for what, text in texts[:_MOST_TEXTS])
    value = f"{item['sum'] / item['weight']:.3g}" if item["weight"] else "–"
    return Shown(subject, value, some, len(texts) - len(some))


def _readable(path: Path | None) -> Iterator[dict[str, Any]]:
    if path is not None and path.is_file():
        items = kdtool.json_objects(path, item=str, sum=(int, float), weight=(int, float))
        yield from (item for item in items if isinstance(item.get("shown"), dict) and item["shown"])


def cut(text: str) -> str:
    """Truncate a text, and escape characters that break the page: lone surrogates, direction overrides, controls."""
    text = "".join(
        character if character.isprintable() or character in "\n\t" else f"\\u{ord(character):04x}"
        for character in text
    )
    return (
        text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}\n… {len(text) - _MOST_CHARACTERS:,} more"
    )


@dataclass(frozen=True)
class Samples:
    """Arms as columns (key and title); each row is a prompt with a completion per arm, "" if there is none."""

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def samples(results: kdtool.Results, subjects: Subjects) -> Samples:
    """Return the texts of all measurements, except those of exports."""
    texts = {arm: found for arm, found in _texts(results, subjects).items() if not subjects.is_exported(arm)}
    arms = arm_order(texts)
    prompts = dict.fromkeys(prompt for arm in arms for prompt in texts[arm])
    rows = tuple((cut(prompt), tuple(cut(texts[arm].get(prompt, "")) for arm in arms)) for prompt in prompts)
    return Samples(tuple((arm, subjects.title(arm)) for arm in arms), rows)


def _texts(results: kdtool.Results, subjects: Subjects) -> dict[str, Mapping[str, str]]:
    texts: dict[str, Mapping[str, str]] = {}
    for arms in subjects.gather(found for found in results.measurements if found.texts).values():
        for arm, measured in arms.items():
            texts[arm] = {**texts.get(arm, {}), **measured.first.texts}
    return texts
