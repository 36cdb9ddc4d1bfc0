"""Documents and problems to measure on, and measurements of items."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import nsmallest
from math import exp, isfinite
from typing import Literal, get_args

import kdtool

__all__ = ["Document", "Item", "digest", "held_out", "make_measurement", "text_of", "without_text"]


@dataclass(frozen=True)
class Document:
    """A held-out document: its id within the run and its text."""

    id: str
    text: str


@dataclass(frozen=True)
class Item:
    """Contribution of one document or task to a measurement: its sum and its weight (for instance nats and tokens).

    `shown` maps labels such as `answer` and `verdict` to texts that reports show.
    """

    item: str
    sum: float
    weight: float
    shown: Mapping[str, str] = field(default_factory=dict)


def held_out(run: kdtool.RunInfo, split: kdtool.Split, *, most: int, characters: int) -> list[Document]:
    """Select at most `most` documents of a split, each cut after `characters`.

    Documents are selected by the hashes of their ids: the same on every machine, spread over the whole split, and stable
    when a few documents come or go. Blank documents are skipped. A prompt with its completion is one text, and so is a
    conversation.
    """
    candidates = _documents(run, split, characters)
    return nsmallest(most, candidates, key=lambda document: sha256(document.id.encode("utf-8")).digest())


def without_text(
    run: kdtool.RunInfo, evaluator: str, split: kdtool.Split, lacking: str = "no documents"
) -> kdtool.UsageError:
    """Return the error for a split without anything to measure on: a run without a score has failed."""
    if all(next(iter(run.texts.examples(each)), None) is None for each in get_args(kdtool.Split)):
        return kdtool.UsageError(
            f"{evaluator}: the run has no text to measure on; name it with --corpus NAME or --recipe FILE (such as the "
            "recipe that the models were trained by), or remove the evaluator"
        )
    return kdtool.UsageError(
        f"{evaluator}.split: {split!r} has {lacking}, so there is nothing to measure on; give the recipe text of that "
        f"split (by a corpus setting such as `{split}_share` or `split`), or remove the evaluator"
    )


def digest(documents: Sequence[Document]) -> str:
    """Return a digest of the documents for a measurement's settings: 12 hex digits over ids and texts.

    Runs are compared only if all settings are equal, so different texts with the same ids are never mixed up.
    """
    hash_ = sha256()
    for document in documents:
        hash_.update(json.dumps([document.id, document.text]).encode())
    return hash_.hexdigest()[:12]


def make_measurement(
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
    """Return the measurement transform(Σ sum / Σ weight), and write its items into the run's folder.

    `low` and `high` come from `kdtool.interval_of`; None for fewer than two items of positive weight, or if a bound
    overflows.

    Raises:
        PluginError: there are no items, their weights sum to 0, or an item or the value is not finite.
    """
    _check(items, name, subject)
    mean = sum(item.sum for item in items) / sum(item.weight for item in items)
    value = _transform(mean, transform, name, subject)
    bounds = kdtool.interval_of(((item.sum, item.weight) for item in items), unit=unit, transform=transform)
    low, high = bounds if bounds and all(map(isfinite, bounds)) else (None, None)
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
    """Return a body as one text: prompt and completion concatenated, turns of a conversation as lines."""
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
                f"{name} of {subject.name} is not finite on {item.item!r}: the model computes NaN or infinity; check "
                "whether its training diverged"
            )
    if not sum(item.weight for item in items) > 0:
        raise kdtool.PluginError(
            f"{name} of {subject.name} has nothing to measure on: no items, or all weigh 0; add text"
        )


def _transform(value: float, transform: str, name: str, subject: kdtool.Subject) -> float:
    if transform == "identity":
        return value
    try:
        return exp(value)
    except OverflowError:
        raise kdtool.PluginError(f"{name} of {subject.name} is too large for a number: exp({value:.4g})") from None
