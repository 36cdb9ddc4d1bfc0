"""Library for trackers that draw curves: a series for each arm and seed, with names that stay the same over a run's life.

`CurvesTracker` is the base class of such a tracker: it turns the events of a run into steps of named series, and into
measurements of named models. `figures` names the numbers of a step, `main_settings` returns the recipe's settings for a
table of runs, and `samples_text` formats completions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import kdtool
from kdtool._store.files import read_json


class CurvesTracker(kdtool.Tracker):
    """Base of trackers with a series for each arm and seed, such as `student-seed0`, and for each model measured.

    A subclass implements `begin`, `log_step` and `log_results`. Events before `kdtool_run_start` are dropped.

    A phase logs some steps twice: a resumed one those since its last checkpoint, a repeated one all. So a step replaces
    itself and every later step of its phase that is recorded already. Replaying a run's events changes nothing.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._folder: Path | None = None
        self._stages: Sequence[str] = ()
        self._measured: dict[str, list[kdtool.Measurement]] = {}

    def begin(self, run: kdtool.RunInfo) -> str:
        """Begin a run, or continue a resumed one, in `run.folder`; return the command that shows its curves."""
        raise NotImplementedError

    def log_step(self, series: str, phase: str, report: kdtool.StepReport, values: Mapping[str, float]) -> None:
        """Record the `values` of a step, by name, and forget this step and later ones of the same series and phase."""
        raise NotImplementedError

    def log_results(
        self, series: str, measurements: Sequence[kdtool.Measurement], settings: Mapping[str, Setting]
    ) -> None:
        """Record all measurements of a model in place of earlier ones, with the recipe's main settings."""
        raise NotImplementedError

    def kdtool_run_start(self, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
        self._folder, self._stages, self._measured = run.folder, [stage.name for stage in stages], {}
        self._viewer = self.begin(run)

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        if self._folder is not None:
            series, phase = _place(run)
            self.log_step(series, phase, report, {f"{phase}/{name}": value for name, value in figures(report).items()})

    def kdtool_measurement(self, run: kdtool.RunInfo, measurement: kdtool.Measurement) -> None:
        self._measured.setdefault(self._series_of(measurement.subject), []).append(measurement)

    def kdtool_run_end(
        self, run: kdtool.RunInfo, status: Literal["done", "failed", "interrupted"], report: Path | None
    ) -> None:
        if self._folder is not None:
            settings = main_settings(self._folder)
            for series, measurements in self._measured.items():
                self.log_results(series, measurements, settings)
            run.say(f"to see the curves: {self._viewer}")
        self._folder = None

    def _series_of(self, subject: str) -> str:
        """Return the series of a model: that of its training, also if it is called "student" because there is one seed."""
        pattern = re.compile(rf"phases/({re.escape(subject)}-seed\d+)-")
        trained = {found[1] for stage in self._stages if (found := pattern.match(stage))}
        return trained.pop() if len(trained) == 1 else subject


def _place(run: kdtool.RunInfo) -> tuple[str, str]:
    """Return the series and the phase of a step. A teacher has one seed, which its names leave out."""
    series = run.arm if run.stage == "teachers" else f"{run.arm}-seed{run.seed}"
    return series, run.phase or run.label.removeprefix(f"{series}-") or "train"


_MAIN_SETTINGS = ("corpora", "rows", "teachers", "signals", "student", "trainer", "train", "phases")
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
    try:
        recipe = read_json(folder / "results.json", dict, recipe=dict)["recipe"]
    except FileNotFoundError:
        return {}
    return {key: value for name in _MAIN_SETTINGS if name in recipe for key, value in _leaves(name, recipe[name])}


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
