"""What evaluators share: what is asked, what was answered, and measurements with intervals. A library, no plugin.

`held_out` chooses documents and `digest` names the choice; `records_of` and `chosen` read test sets (`_published`);
`answered` asks a subject and keeps its answers (`_answers`, `_journal`), `ask_teacher` a teacher whose answers are learned
(`_teacher`); `measured` makes a measurement of items. Comparing subjects is the core's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import nsmallest
from math import exp, isfinite, sqrt
from statistics import NormalDist
from typing import Literal

import kdtool

from kdtool_measuring._answers import (
    Answer,
    Counting,
    answered,
    bytes_to_answer,
    cannot,
    file_of,
    fitted,
    opened,
    seed_of,
    unanswered,
)
from kdtool_measuring._journal import Journal, journal
from kdtool_measuring._published import Kind, check_fields, chosen, records_of, unpacked
from kdtool_measuring._teacher import ask_teacher, kept_answers, mending

__all__ = [
    "Answer",
    "Counting",
    "Document",
    "Item",
    "Journal",
    "Kind",
    "answered",
    "ask_teacher",
    "bytes_to_answer",
    "cannot",
    "check_fields",
    "chosen",
    "digest",
    "file_of",
    "fitted",
    "held_out",
    "journal",
    "kept_answers",
    "measured",
    "mending",
    "opened",
    "records_of",
    "seed_of",
    "text_of",
    "unanswered",
    "unpacked",
    "without_text",
]

_REPLICATES = 2000
_DRAWS_AT_ONCE = 1_000_000
_ROUNDED = 1e-9
"""By so much shares differ at most that are alike."""


@dataclass(frozen=True)
class Document:
    """A held-out document: its id within the run and its text."""

    id: str
    text: str


@dataclass(frozen=True)
class Item:
    """What one document or task adds to a measurement: its sum and its weight (for instance nats and tokens).

    `shown` is what there is to read of it, texts by what they are (`answer`, `verdict`), for reports.
    """

    item: str
    sum: float
    weight: float
    shown: Mapping[str, str] = field(default_factory=dict)


def held_out(run: kdtool.RunInfo, split: kdtool.Split, *, most: int, characters: int) -> list[Document]:
    """Choose at most `most` documents of a split, each cut after `characters`.

    The choice follows the hashes of the documents' ids: it is the same on every machine, spread over the whole split, and
    hardly changes when a few documents come or go. Blank documents are left out. A prompt with its completion and a
    conversation are taken as one text.
    """
    candidates = _documents(run, split, characters)
    return nsmallest(most, candidates, key=lambda document: sha256(document.id.encode("utf-8")).digest())


def without_text(evaluator: str, split: kdtool.Split, lacking: str = "no documents") -> kdtool.UsageError:
    """Return the error of an evaluator that finds nothing in a split to measure on: a run without a score is no success."""
    return kdtool.UsageError(
        f"{evaluator}.split: {split!r} holds {lacking}, so there is nothing to measure on; give the recipe text of that "
        f"split (settings of a corpus such as `{split}_share` or `split` say what belongs to it), or `kdtool eval` a corpus "
        "(--corpus), or leave the evaluator out"
    )


def digest(documents: Sequence[Document]) -> str:
    """Return what tells these documents from others, for a measurement's settings: 12 digits of a hash of ids and texts.

    Subjects of two runs are compared only where all settings are the same, so a name that two texts have is no trap.
    """
    found = sha256()
    for document in documents:
        found.update(json.dumps([document.id, document.text]).encode())
    return found.hexdigest()[:12]


def measured(
    items: Sequence[Item],
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    *,
    name: str,
    unit: str,
    higher_is_better: bool,
    settings: Mapping[str, str],
    transform: Literal["identity", "exp"] = "identity",
) -> kdtool.Measurement:
    """Return the measurement transform(Σ sum / Σ weight) and write its items into the run's folder.

    `low` and `high` are the 2.5th and 97.5th percentile of 2,000 bootstrap replicates, which draw items with replacement
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13); None for fewer than two items. A fraction of
    items of which each passes or fails has Wilson's score interval (JASA 22, 1927), which says something of 0 of 164, too;
    that of one that all items have alike reaches as far as others may be otherwise.

    Raises:
        PluginError: there are no items, they weigh nothing, or an item or the value is not finite.
    """
    _check(items, name, subject)
    mean = sum(item.sum for item in items) / sum(item.weight for item in items)
    value, *bounds = (_transformed(number, transform, name, subject) for number in (mean, *_interval(items, unit)))
    low, high = bounds or (None, None)
    path = run.folder / (re.sub(r"[^\w.-]", "_", f"{name}.{subject.name}") + ".items.jsonl")
    path.write_text("".join(_line(item) for item in items), encoding="utf-8")
    return kdtool.Measurement(
        name=name,
        subject=subject.name,
        unit=unit,
        value=value,
        n=len(items),
        higher_is_better=higher_is_better,
        low=low,
        high=high,
        settings=dict(settings),
        items=path,
        transform=transform,
    )


def _documents(run: kdtool.RunInfo, split: kdtool.Split, characters: int) -> Iterator[Document]:
    seen: set[str] = set()
    for example in run.texts.examples(split):
        text = text_of(example.body)[:characters]
        if text.strip():
            name = f"{example.id}#{len(seen)}" if example.id in seen else example.id
            seen.add(name)
            yield Document(name, text)


def text_of(body: kdtool.Text | kdtool.Completion | kdtool.Messages) -> str:
    """Return a body as one text: a prompt goes on in its completion, and turns of a conversation are lines."""
    if isinstance(body, kdtool.Text):
        return body.text
    if isinstance(body, kdtool.Completion):
        return body.prompt + body.completion
    return "\n".join(content for _, content in body.turns)


def _line(item: Item) -> str:
    shown = {"shown": dict(item.shown)} if item.shown else {}
    return json.dumps({"item": item.item, "sum": item.sum, "weight": item.weight, **shown}) + "\n"


def _check(items: Sequence[Item], name: str, subject: kdtool.Subject) -> None:
    for item in items:
        if not (isfinite(item.sum) and isfinite(item.weight)):
            raise kdtool.PluginError(
                f"{name} of {subject.name} is not a finite number on {item.item!r}: the model computes NaN or infinity; "
                "see whether its training diverged"
            )
    if not sum(item.weight for item in items) > 0:
        raise kdtool.PluginError(f"{name} of {subject.name} has nothing to be measured on: no items, or all weigh 0")


def _interval(items: Sequence[Item], unit: str) -> Sequence[float]:
    import numpy as np

    if len(items) < 2:
        return ()
    if unit == "fraction" and all(item.weight == 1 and item.sum in (0, 1) for item in items):
        return _wilson(sum(item.sum for item in items), len(items))
    shares = [item.sum / item.weight for item in items if item.weight]
    if unit == "fraction" and max(shares) - min(shares) < _ROUNDED:
        return _of_items_alike(shares[0], len(shares))
    table = np.array([(item.sum, item.weight) for item in items])
    generator = np.random.default_rng(0)
    means: list[float] = []
    while len(means) < _REPLICATES:
        count = min(_REPLICATES - len(means), max(1, _DRAWS_AT_ONCE // len(items)))
        drawn = table[generator.integers(len(items), size=(count, len(items)))].sum(axis=1)
        drawn = drawn[drawn[:, 1] > 0]  # a draw of weightless items only has no mean; another takes its place
        means.extend(drawn[:, 0] / drawn[:, 1])
    return [float(bound) for bound in np.quantile(means, [0.025, 0.975])]


def _wilson(passed: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a share of `passed` in `count`, between 0 and 1."""
    share, z = passed / count, NormalDist().inv_cdf(0.975)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))  # at 0 and 1 rounding would cross


def _of_items_alike(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share that all items have, of which no bootstrap draws anything else.

    1 − 0.025^(1/n) of others may be otherwise where none of n is (Clopper and Pearson, Biometrika 26, 1934), each by the way
    to 0 or to 1.
    """
    others = 1 - 0.025 ** (1 / count)
    return share - others * share, share + others * (1 - share)


def _transformed(value: float, transform: str, name: str, subject: kdtool.Subject) -> float:
    if transform == "identity":
        return value
    try:
        return exp(value)
    except OverflowError:
        raise kdtool.PluginError(f"{name} of {subject.name} is too large for a number: exp({value:.4g})") from None
