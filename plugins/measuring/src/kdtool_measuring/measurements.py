"""Measurements on documents and problems: held-out documents, the base of evaluators that score them, and their items.

Also the predicted memory of heads in float32, which evaluators use for the logits that they report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import nsmallest
from math import exp, isfinite
from typing import ClassVar, Literal, get_args

import kdtool


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
    candidates = _documents_of(run, split, characters)
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
    aside: str = "",
) -> kdtool.Measurement:
    """Return the measurement transform(Σ sum / Σ weight), and write its items into the run's folder.

    `low` and `high` come from `kdtool.interval_of`; None for fewer than two items of positive weight, or if a bound
    overflows.

    Raises:
        PluginError: there are no items, their weights sum to 0, or the value is too large.
    """
    weight = sum(item.weight for item in items)
    if not weight > 0:
        raise kdtool.PluginError(
            f"{name} of {subject.name} has nothing to measure on: no items, or all weigh 0; add text"
        )
    mean = sum(item.sum for item in items) / weight
    try:
        value = exp(mean) if transform == "exp" else mean
    except OverflowError:
        raise kdtool.PluginError(f"{name} of {subject.name} is too large for a number: exp({mean:.4g})") from None
    bounds = kdtool.interval_of(((item.sum, item.weight) for item in items), unit=unit, transform=transform)
    low, high = bounds if bounds and all(map(isfinite, bounds)) else (None, None)
    path = run.folder / (re.sub(r"[^\w.-]", "_", f"{name}.{subject.name}") + ".items.jsonl")
    path.write_text("".join(_item_line(item) for item in items), encoding="utf-8")
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
        aside=aside,
    )


def _documents_of(run: kdtool.RunInfo, split: kdtool.Split, characters: int) -> Iterator[Document]:
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
    return "\n".join(kdtool.parts_of(body))


def _item_line(item: Item) -> str:
    shown = {"shown": dict(item.shown)} if item.shown else {}
    return json.dumps({"item": item.item, "sum": item.sum, "weight": item.weight, **shown}) + "\n"


class DocumentEvaluator(kdtool.Evaluator):
    """Base of evaluators of held-out documents: subclasses give `name`, `measurements` and `kdtool_evaluate`."""

    name: ClassVar[str] = ""
    """The evaluator's name, for messages."""

    class Config(kdtool.Config):
        """Documents to score."""

        split: Literal["validation", "test"] = "test"
        """The split whose documents are scored: `validation` to choose settings, `test` once at the end."""
        limit: int = kdtool.Field(default=64, ge=1, le=1_000_000)
        """Documents at most, chosen by the hashes of their ids."""
        characters: int = kdtool.Field(default=4000, ge=1, le=10_000_000)
        """Maximum number of characters of a document; the rest is cut."""

    config: Config

    def documents(self, run: kdtool.RunInfo) -> list[Document]:
        """Return the documents, the same on every machine.

        Raises:
            kdtool.UsageError: the split has no text.
        """
        chosen = held_out(run, self.config.split, most=self.config.limit, characters=self.config.characters)
        if not chosen:
            raise without_text(run, self.name, self.config.split)
        return chosen

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a split without text.

        Raises:
            kdtool.UsageError: there is no text to measure on.
        """
        if when == "text":
            self.documents(run)


def score_texts(
    run: kdtool.RunInfo, subject: kdtool.Subject, texts: Sequence[str], *, evaluator: str
) -> list[kdtool.LogLikelihood] | None:
    """Return the log-likelihoods of texts, in order; None, and a line for the user, if the subject cannot score them."""
    with open_for_measuring(run, subject, evaluator, unfit_to_score) as runtime:
        return None if runtime is None else list(runtime.score(texts))


def unfit_to_score(runtime: kdtool.Runtime) -> str:
    """Return why a subject cannot score texts, for messages; "" if it can."""
    return "" if "score" in runtime.abilities else cannot("score")


def bytes_of_exact_heads(ahead: kdtool.RunForecast) -> int:
    """Return the bytes of a float32 copy of the student's head, 0 if it is in float32 already.

    Evaluators project logits in float32.
    """
    student = ahead.models[ahead.student]
    return 4 * student.vocabulary * student.hidden if ahead.student_bytes < 4 * student.parameters else 0


_ABILITIES: Mapping[kdtool.Ability, str] = {
    "continue": "continue text, only answer in a chat",
    "converse": "answer in a chat, only continue text",
    "prefill": "continue the beginning of an answer",
    "score": "score text",
    "infill": "infill, because its tokenizer has no FIM tokens",
    "echo": "report the log-probabilities of a prompt",
}


def cannot(ability: kdtool.Ability) -> str:
    """Return the clause "it cannot …" for a missing ability, as the reason why a subject is left out."""
    return f"it cannot {_ABILITIES[ability]}"


@contextmanager
def open_for_measuring(
    run: kdtool.RunInfo, subject: kdtool.Subject, evaluator: str, unfit: Callable[[kdtool.Runtime], str] | None = None
) -> Iterator[kdtool.Runtime | None]:
    """Open a subject for the block; None, with a message to the user, if nothing opens it or it is unfit."""
    opened = kdtool.open_subject(run, subject)
    if opened is None:
        why = "component opens it; its component must implement kdtool_open"
        if subject.role == "artifact":
            why = f"installed plugin opens {subject.path}; name a folder with config.json, a tokenizer and *.safetensors, "
            why += "or a file of an installed exporter"
        run.say(f"{evaluator}: {subject.name} is left out, no {why}")
        yield None
        return
    with opened.value as runtime:
        reason = unfit(runtime) if unfit else ""
        if reason:
            run.say(f"{evaluator}: {subject.name} is left out, {reason}")
        yield None if reason else runtime
