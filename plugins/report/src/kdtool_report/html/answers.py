"""Texts of subjects: answers to items of benchmarks with verdicts, and samples after the same prompts, side by side.

Items files may include texts to show (`shown`, by label). The page shows the items with the worst results, within a
budget of bytes; the files, which the page links, hold all of them. Samples are those of the first seed of each arm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import kdtool
from markupsafe import escape

from kdtool_report.html.wording import Subjects, arm_order, title

_PAGE = 1024 * 1024
"""Bytes of answers on the page, shared evenly among measurements; each shows at least one item."""
_AROUND = 200
"""Approximate bytes of the markup around a text."""
_MOST_TEXTS = 8
"""Texts of one subject's part of an item: answers and verdicts of a few samples."""
_MOST_CHARACTERS = 4000


@dataclass(frozen=True)
class Shown:
    """One subject's part of an item: its title, its score on the item, and texts by label.

    `left` is the number of texts that are not on the page.
    """

    subject: str
    value: str
    texts: tuple[tuple[str, str], ...]
    left: int

    @property
    def size(self) -> int:
        """Bytes on the page."""
        return _AROUND + sum(_size(text) for _, text in self.texts)


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
    return [
        _fitting(name, by_name[name], worst, _PAGE // len(order), titles, results.folder)
        for name, worst in order.items()
    ]


def _worst_first(measurements: Sequence[kdtool.Measurement]) -> list[str]:
    """Return the items with texts to show, sorted by their worst result for any subject."""
    worst: dict[str, float] = {}
    for measurement in measurements:
        for item in _readable(measurement.items):
            value = item["sum"] / item["weight"] if item["weight"] else inf
            value = value if measurement.higher_is_better or value == inf else -value
            worst[item["item"]] = min(value, worst.get(item["item"], inf))
    return sorted(worst, key=lambda name: worst[name])


def _fitting(
    name: str,
    measurements: Sequence[kdtool.Measurement],
    order: Sequence[str],
    room: int,
    titles: Mapping[str, str],
    folder: Path,
) -> Answers:
    """Return the items that fit on the page, but at least the first one."""
    parts: dict[str, list[Shown]] = {item: [] for item in order[: max(1, room // _AROUND)]}
    files = []
    for measurement in measurements:
        for item in _readable(measurement.items):
            if item["item"] in parts:
                parts[item["item"]].append(_show(titles[measurement.subject], item))
        if measurement.items is not None:
            file = measurement.items
            files.append(file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file))
    taken: list[tuple[str, tuple[Shown, ...]]] = []
    for item_name, shown in parts.items():
        room -= _size(item_name) + sum(part.size for part in shown)
        if taken and room < 0:
            break
        taken.append((cut(item_name), tuple(shown)))
    return Answers(name, tuple(taken), len(order) - len(taken), tuple(files))


def _show(subject: str, item: Mapping[str, Any]) -> Shown:
    texts = list(item["shown"].items())
    some = tuple((title(what), cut(str(text))) for what, text in texts[:_MOST_TEXTS])
    value = f"{item['sum'] / item['weight']:.3g}" if item["weight"] else "–"
    return Shown(subject, value, some, len(texts) - len(some))


def _size(text: str) -> int:
    return _AROUND + len(str(escape(text)).encode("utf-8", "replace"))


def _readable(path: Path | None) -> Iterator[dict[str, Any]]:
    if path is None or not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        yield from (item for item in map(json.loads, lines) if item.get("shown"))


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
    """Arms as columns (key and title); each row is a prompt with a completion per arm, "" if there is none.

    `notes` name the exports that write something else than the student.
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


def samples(results: kdtool.Results, subjects: Subjects) -> Samples:
    """Return the texts of all measurements; of exports, whether they write what the student writes."""
    everything = _texts(results, subjects)
    texts = {arm: found for arm, found in everything.items() if not subjects.is_exported(arm)}
    exported = {subjects.title(arm): found for arm, found in everything.items() if arm not in texts}
    arms = arm_order(texts)
    prompts = dict.fromkeys(prompt for arm in arms for prompt in texts[arm])
    rows = tuple((cut(prompt), tuple(cut(texts[arm].get(prompt, "")) for arm in arms)) for prompt in prompts)
    notes = tuple(_differences(texts.get("student", {}), exported))
    return Samples(tuple((arm, subjects.title(arm)) for arm in arms), rows, notes)


def _differences(student: Mapping[str, str], exported: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield a sentence about each export, by title, that completes some of the student's prompts differently."""
    for model, texts in exported.items():
        both = student.keys() & texts.keys()
        if others := sum(student[prompt] != texts[prompt] for prompt in both):
            yield (
                f"{model} completes {others} of {len(both)} prompts differently from the student: weights that are "
                "rounded at export can change the most likely token, and all tokens after it."
            )


def best_prompt(results: kdtool.Results, subjects: Subjects) -> str:
    """Return the prompt after which the student wrote the most different words; "" if it wrote none."""
    found = _texts(results, subjects).get("student", {})
    words = {prompt: len(set(re.findall(r"\w+", text))) for prompt, text in found.items()}
    best = max(words, key=lambda prompt: words[prompt], default="")
    return best if words.get(best) else ""


def _texts(results: kdtool.Results, subjects: Subjects) -> dict[str, Mapping[str, str]]:
    texts: dict[str, Mapping[str, str]] = {}
    for arms in subjects.gather(found for found in results.measurements if found.texts).values():
        for arm, measured in arms.items():
            texts[arm] = {**texts.get(arm, {}), **measured.first.texts}
    return texts
