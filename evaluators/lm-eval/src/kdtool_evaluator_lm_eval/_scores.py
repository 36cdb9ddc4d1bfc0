"""Scores of documents as measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from math import log
from typing import Any, Literal, NamedTuple

import kdtool
from kdtool_asking import measure_missing_answers
from kdtool_measuring import Item, make_measurement
from lm_eval import evaluate
from lm_eval.api.metrics import bits_per_byte, mean, perplexity, weighted_perplexity
from lm_eval.api.task import Task

from kdtool_evaluator_lm_eval._model import LeftOutError, SubjectModel
from kdtool_evaluator_lm_eval._quiet import quiet

__all__ = ["measure_task"]

_FRACTIONS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1"})
"""Metrics whose scores of documents are from 0 to 1."""
_UNITS: Mapping[str, str] = {"word_perplexity": "per word", "byte_perplexity": "per byte", "perplexity": "per target"}


class _Scale(NamedTuple):
    """Conversion of scores of documents to a figure: transform(Σ sum / Σ weight)."""

    unit: str
    transform: Literal["identity", "exp"] = "identity"


def measure_task(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    task: Task,
    name: str,
    model: SubjectModel,
    most: int | None,
) -> Iterator[kdtool.Measurement]:
    """Yield the metrics of a task; nothing, with a message to the user, if the subject cannot reply."""
    is_chat = model.is_chat
    try:
        with quiet():
            results = evaluate(
                model, {"tasks": {name: task}, "groups": {}}, limit=most, bootstrap_iters=0,
                apply_chat_template=is_chat, fewshot_as_multiturn=is_chat,
            )  # fmt: skip
    except LeftOutError:
        return
    samples: Sequence[Mapping[str, Any]] = results["samples"][name]
    settings = {**_settings(task, samples), "form": "chat" if is_chat else "base"}
    for metric, filter_ in dict.fromkeys((metric, each["filter"]) for each in samples for metric in each["metrics"]):
        of_filter = [each for each in samples if each["filter"] == filter_ and metric in each["metrics"]]
        full = f"lm-eval.{name}.{metric}" + ("" if filter_ == "none" else f".{filter_}")
        yield _measurement(run, subject, task, full, metric, of_filter, settings)
    yield from measure_missing_answers(f"lm-eval.{name}", subject, model.answers)


def _measurement(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    task: Task,
    name: str,
    metric: str,
    samples: Sequence[Mapping[str, Any]],
    settings: Mapping[str, str],
) -> kdtool.Measurement:
    """Return a metric with an item for each document; without items if it exists only for all documents together."""
    aggregate = task.aggregation().get(metric, mean)
    higher = bool(task.higher_is_better().get(metric, True))
    scale = _scale(metric, aggregate)
    if scale is None:
        value = float(aggregate([sample[metric] for sample in samples]))
        known = {**settings, "interval": "none: the metric exists only for all documents together"}
        return kdtool.Measurement(name, subject.name, "score", value, len(samples), higher, settings=known)
    items = [Item(str(sample["doc_id"]), *_parts(sample[metric], aggregate), _texts_of(sample)) for sample in samples]
    return make_measurement(
        items, run, subject,
        name=name, unit=scale.unit, higher_is_better=higher, settings=settings, transform=scale.transform,
    )  # fmt: skip


def _scale(metric: str, aggregate: Any) -> _Scale | None:
    if aggregate is mean:
        return _Scale("fraction" if metric in _FRACTIONS else "score")
    if aggregate is bits_per_byte:
        return _Scale("bits per byte")
    return _Scale(_UNITS.get(metric, metric), "exp") if aggregate in (perplexity, weighted_perplexity) else None


def _parts(value: Any, aggregate: Any) -> tuple[float, float]:
    """Return sum and weight of a document's score."""
    if aggregate is mean:
        return float(value), 1.0
    likelihood, weight = value if isinstance(value, tuple | list) else (value, 1)
    return -float(likelihood) / (log(2) if aggregate is bits_per_byte else 1.0), float(weight)


def _texts_of(sample: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the texts that a report shows: the answer of a task that generates, and its target."""
    reply = sample["resps"][0][0]
    return {"answer": reply, "target": str(sample["target"])} if isinstance(reply, str) else {}


def _settings(task: Task, samples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    asked = sha256(json.dumps([[each["doc_hash"], each["arguments"]] for each in samples], default=str).encode())
    return {
        "harness": f"lm-evaluation-harness {version('lm_eval')}",
        "task version": str(task.VERSION),
        "examples before each document": str(task.get_config("num_fewshot")),
        "documents": str(len({each["doc_id"] for each in samples})),
        "requests": asked.hexdigest()[:12],
    }
