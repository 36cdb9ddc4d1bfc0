"""Items that can be read: what subjects answered, with verdicts, item by item, for the page's section of that name.

An items file may say of an item what there is to see (`shown`: texts by what they are). The page holds as many items as its
budget of text allows, those that went worst first; all are in the files, which the page names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import kdtool
from markupsafe import escape

from kdtool_reporter_html._subjects import Subjects, arm_order, title

__all__ = ["Answers", "Shown", "answers"]

_PAGE = 1024 * 1024
"""Bytes of answers on the page, shared evenly among measurements; each shows one item at least."""
_AROUND = 200
"""Bytes of the markup around a text, about."""
_MOST_TEXTS = 8
"""Texts of one subject's part of an item: answers and verdicts of a few samples."""
_MOST_CHARACTERS = 4000


@dataclass(frozen=True)
class Shown:
    """One subject's part of an item: who, what share of the item counted for it, and texts by what they are.

    `left` of the texts are not on the page.
    """

    subject: str
    value: str
    texts: tuple[tuple[str, str], ...]
    left: int

    @property
    def size(self) -> int:
        """What it takes of the page, in bytes."""
        return _AROUND + sum(_size(text) for _, text in self.texts)


@dataclass(frozen=True)
class Answers:
    """Items of a measurement, worst first, each with what every subject did.

    `left` items are not on the page; `files` hold all of them, relative to the run's folder where they are below it.
    """

    heading: str
    items: tuple[tuple[str, tuple[Shown, ...]], ...]
    left: int
    files: tuple[str, ...]


def answers(results: kdtool.Results, subjects: Subjects) -> list[Answers]:
    """Return the measurements of which items can be read, in their order."""
    measurements = results.measurements
    places = {arm: place for place, arm in enumerate(arm_order(subjects.of(one.subject)[0] for one in measurements))}
    by_name: dict[str, list[kdtool.Measurement]] = {}
    for measurement in sorted(measurements, key=lambda one: places[subjects.of(one.subject)[0]]):
        by_name.setdefault(measurement.name, []).append(measurement)
    order = {name: worst for name, own in by_name.items() if (worst := _worst_first(own))}
    called = {one.subject: _called(one.subject, subjects) for one in measurements}
    return [
        _fitting(name, by_name[name], worst, _PAGE // len(order), called, results.folder)
        for name, worst in order.items()
    ]


def _worst_first(measurements: Sequence[kdtool.Measurement]) -> list[str]:
    """Return the items that can be read, those first that went worst for some subject."""
    found: dict[str, float] = {}
    for measurement in measurements:
        for item in _readable(measurement.items):
            value = item["sum"] / item["weight"] if item["weight"] else inf
            value = value if measurement.higher_is_better or value == inf else -value
            found[item["item"]] = min(value, found.get(item["item"], inf))
    return sorted(found, key=lambda name: found[name])


def _fitting(
    name: str,
    measurements: Sequence[kdtool.Measurement],
    order: Sequence[str],
    room: int,
    called: Mapping[str, str],
    folder: Path,
) -> Answers:
    """Return the items for which there is room on the page, the first one in any case."""
    parts: dict[str, list[Shown]] = {item: [] for item in order[: max(1, room // _AROUND)]}
    files = []
    for measurement in measurements:
        for item in _readable(measurement.items):
            if item["item"] in parts:
                parts[item["item"]].append(_shown(called[measurement.subject], item))
        if measurement.items is not None:
            files.append(_place(measurement.items, folder))
    taken: list[tuple[str, tuple[Shown, ...]]] = []
    for item_name, shown in parts.items():
        room -= _size(item_name) + sum(one.size for one in shown)
        if taken and room < 0:
            break
        taken.append((_cut(item_name), tuple(shown)))
    return Answers(name, tuple(taken), len(order) - len(taken), tuple(files))


def _shown(subject: str, item: Mapping[str, Any]) -> Shown:
    texts = list(item["shown"].items())
    some = tuple((title(what), _cut(str(text))) for what, text in texts[:_MOST_TEXTS])
    value = f"{item['sum'] / item['weight']:.3g}" if item["weight"] else "–"
    return Shown(subject, value, some, len(texts) - len(some))


def _size(text: str) -> int:
    return _AROUND + len(str(escape(text)).encode("utf-8", "replace"))


def _place(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def _readable(path: Path | None) -> Iterator[dict[str, Any]]:
    if path is None or not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        yield from (item for item in map(json.loads, lines) if item.get("shown"))


def _called(subject: str, subjects: Subjects) -> str:
    arm, seed = subjects.of(subject)
    return subjects.title(arm) if seed < 0 else f"{subjects.title(arm)}, seed {seed}"


def _cut(text: str) -> str:
    """Cut a text, and write out what no page can hold (half a character) or should not do (turn the text around)."""
    text = "".join(one if one.isprintable() or one in "\n\t" else f"\\u{ord(one):04x}" for one in text)
    return (
        text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}\n… {len(text) - _MOST_CHARACTERS:,} more"
    )
