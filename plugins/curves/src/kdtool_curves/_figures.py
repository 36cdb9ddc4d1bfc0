"""Numbers, settings and texts of a run, in the form that experiment trackers show."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kdtool

__all__ = ["figures", "main_settings", "samples_text"]

_MAIN = ("corpora", "rows", "teachers", "signals", "student", "trainer", "train", "phases")
"""Keys of the recipe that decide how a model is trained."""

Setting = bool | int | float | str


def figures(report: kdtool.StepReport) -> dict[str, float]:
    """Return the numbers of a logged step by name; they may be infinite or NaN.

    `loss`, `learning_rate`, `gradient_norm`, and since the phase began `tokens`, `seconds` and `tokens_per_second`. For each
    term `terms/X`, `weights/X` and, at steps that measured gradients, `gradient_norms/X` and `gradient_shares/X`, which sum
    to 1. The report's `figures` by their names. For each validation `validation/EVALUATOR.MEASUREMENT`. `memory_gib` if it
    is known.
    """
    numbers = {
        "loss": report.loss,
        "learning_rate": report.learning_rate,
        "gradient_norm": report.gradient_norm,
        "tokens": float(report.tokens),
        "seconds": report.seconds,
    }
    if report.seconds > 0:
        numbers["tokens_per_second"] = report.tokens / report.seconds
    if report.memory:
        numbers["memory_gib"] = report.memory / (1 << 30)
    norms = {name: term.gradient_norm for name, term in report.terms.items() if term.gradient_norm is not None}
    whole = sum(norms.values())
    for name, term in report.terms.items():
        numbers |= {f"terms/{name}": term.value, f"weights/{name}": term.weight}
    for name, norm in norms.items():
        numbers[f"gradient_norms/{name}"] = norm
        if whole > 0:
            numbers[f"gradient_shares/{name}"] = norm / whole
    return {**numbers, **report.figures, **{f"validation/{name}": value for name, value in report.metrics.items()}}


def main_settings(folder: Path) -> dict[str, Setting]:
    """Return the settings that decide how models are trained, by key as in `--set`, from a finished run's `results.json`.

    Lists are shown as JSON. Empty if the run has no results yet.
    """
    path = folder / "results.json"
    if not path.is_file():
        return {}
    recipe = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    return {key: value for name in _MAIN if name in recipe for key, value in _leaves(name, recipe[name])}


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Setting]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    elif isinstance(value, bool | int | float | str):
        yield key, value
    elif value is not None:
        yield key, json.dumps(value)


def samples_text(measurement: kdtool.Measurement) -> str:
    """Return the texts of a measurement, such as completions by prompt, as Markdown; "" if it has none.

    It can always be encoded as UTF-8, even if the model wrote lone surrogates.
    """
    texts = [
        f"**Prompt**\n\n{_code_block(name)}\n\n**Completion**\n\n{_code_block(text)}"
        for name, text in measurement.texts.items()
    ]
    return "\n\n".join(texts).encode(errors="replace").decode()


def _code_block(text: str) -> str:
    """Return a code block: by indentation, because a text may contain fences."""
    return "\n".join(f"    {line}" for line in text.splitlines())
