"""Items that can be read: what subjects answered, with verdicts, item by item, for the page's section of that name.

An items file may say of an item what there is to see (`shown`: texts by what they are). The page holds the first items of
each measurement; all are in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kdtool

from kdtool_reporter_html._subjects import arm_of, arm_order, arm_title, title

__all__ = ["Answers", "Shown", "answers"]

_MOST_ITEMS = 200
_MOST_CHARACTERS = 4000


@dataclass(frozen=True)
class Shown:
    """One subject's part of an item: who, what share of the item counted for it, and texts by what they are."""

    subject: str
    value: str
    texts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answers:
    """The items of a measurement, each with what every subject did; `left` are not on the page."""

    heading: str
    items: tuple[tuple[str, tuple[Shown, ...]], ...]
    left: int


def answers(measurements: Sequence[kdtool.Measurement]) -> list[Answers]:
    """Return the measurements of which items can be read, in their order."""
    found: dict[str, dict[str, list[Shown]]] = {}
    places = {arm: place for place, arm in enumerate(arm_order(arm_of(one.subject)[0] for one in measurements))}
    for measurement in sorted(measurements, key=lambda one: places[arm_of(one.subject)[0]]):
        for item in _readable(measurement.items):
            texts = tuple((title(what), _cut(str(text))) for what, text in item["shown"].items())
            value = f"{item['sum'] / item['weight']:.3g}" if item["weight"] else "–"
            shown = Shown(_called(measurement.subject), value, texts)
            found.setdefault(measurement.name, {}).setdefault(item["item"], []).append(shown)
    return [
        Answers(
            name,
            tuple((item, tuple(shown)) for item, shown in list(items.items())[:_MOST_ITEMS]),
            max(0, len(items) - _MOST_ITEMS),
        )
        for name, items in found.items()
    ]


def _readable(path: Path | None) -> Iterator[dict[str, Any]]:
    if path is None or not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        yield from (item for item in map(json.loads, lines) if item.get("shown"))


def _called(subject: str) -> str:
    arm, seed = arm_of(subject)
    return arm_title(arm) if seed < 0 else f"{arm_title(arm)}, seed {seed}"


def _cut(text: str) -> str:
    """Cut a text, and write out what no page can hold (half a character) or should not do (turn the text around)."""
    text = "".join(one if one.isprintable() or one in "\n\t" else f"\\u{ord(one):04x}" for one in text)
    return (
        text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}\n… {len(text) - _MOST_CHARACTERS:,} more"
    )
