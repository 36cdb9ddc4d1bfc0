"""The section of samples: what models wrote after the same prompts, side by side, for the first seed of each arm."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import kdtool

from kdtool_reporter_html._answers import cut
from kdtool_reporter_html._subjects import Measured, Subjects, arm_order

__all__ = ["Samples", "best_prompt", "samples"]


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
    for title, texts in exported.items():
        both = student.keys() & texts.keys()
        if others := sum(student[prompt] != texts[prompt] for prompt in both):
            yield (
                f"{title} completes {others} of {len(both)} prompts differently from the student: weights that are "
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
            texts[arm] = {**texts.get(arm, {}), **_first(measured).texts}
    return texts


def _first(measured: Measured) -> kdtool.Measurement:
    return next(iter(measured.by_seed.values()))
