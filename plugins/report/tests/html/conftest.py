"""A made-up run with the shape of a real one: three seeds, three arms, three terms."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import kdtool
import pytest
from kdtool_report.html.page import page
from kdtool_testing import make_results

Figures = dict[str, tuple[str, bool, dict[str, float]]]
QUALITY: Figures = {  # name: unit, higher is better, transform, values by arm
    "perplexity": ("per token", False, {"teacher": 5.94, "student": 12.08, "control": 14.83, "control-time": 10.41}),
    "bits-per-byte": (
        "bits per byte",
        False,
        {"teacher": 0.71, "student": 0.994, "control": 1.072, "control-time": 0.936},
    ),
    "kl-to-teacher": ("nats per token", False, {"student": 1.08, "control": 1.47, "control-time": 1.26}),
    "top-1-agreement-with-teacher": ("fraction", True, {"student": 0.581, "control": 0.528, "control-time": 0.602}),
}
EFFICIENCY: Figures = {
    "parameters": ("parameters", False, {"teacher": 134_515_008, "student": 63_713_088}),
    "file-size": ("bytes", False, {"teacher": 269_060_552, "student": 127_451_320}),
    "time-to-first-token": ("s", False, {"teacher": 0.231, "student": 0.089}),
    "decode-speed": ("tokens/s", True, {"teacher": 24.6, "student": 61.3}),
    "peak-memory": ("bytes", False, {"teacher": 912_000_000, "student": 598_000_000}),
}


def _measurements() -> Iterator[kdtool.Measurement]:
    rng = random.Random(0)
    texts = {"texts": "64 documents", "split": "test", "tokenizer": "9f31c0aa"}
    timed = {"threads": "2", "prompt": "128 tokens", "generated": "64 tokens", "interval": "least to most"}
    for name, (unit, higher, arms) in {**QUALITY, **EFFICIENCY}.items():
        for arm, centre in arms.items():
            for seed in [None] if arm == "teacher" else [0, 1, 2] if name in QUALITY else [0]:
                subject = arm if seed is None else f"{arm}-seed{seed}"
                if name in QUALITY:
                    value = centre * (1 + (0.012 * rng.gauss(0, 1) if seed is not None else 0))
                    ends = (value * 0.955, value * 1.047)
                    yield kdtool.Measurement(name, subject, unit, value, 64, higher, *ends, texts)
                else:
                    exact = unit == "parameters" or name == "file-size"
                    low, high = (None, None) if exact else (centre * 0.94, centre * 1.09)
                    yield kdtool.Measurement(name, subject, unit, centre, 7, higher, low, high, timed)


def subjects() -> Iterator[kdtool.Subject]:
    """Give the subjects of a run with three seeds, and of one with a single seed, whose names say no seed."""
    yield kdtool.Subject("teacher", "teacher")
    for arm in ("student", "control", "control-time"):
        role: Literal["student", "control"] = "student" if arm == "student" else "control"
        yield kdtool.Subject(arm, role, None, 0)
        yield from (kdtool.Subject(f"{arm}-seed{seed}", role, None, seed, arm=arm) for seed in (0, 1, 2))
    for label in ("safetensors", "gguf", "q4", "big"):
        yield kdtool.Subject(f"student-{label}", "artifact", None, 0)


def _comparisons() -> Iterator[kdtool.Comparison]:
    for name, (_, higher, arms) in QUALITY.items():
        for control in ("control", "control-time"):
            student, other = arms["student"], arms[control]
            relative = name == "perplexity"
            difference = student / other - 1 if relative else student - other
            half = 0.28 * abs(difference) if name != "top-1-agreement-with-teacher" else 0.031
            decided = "better" if (difference > 0) == higher else "worse"
            verdict: Any = decided if abs(difference) > half else "no evidence of a difference"
            ends = (difference, difference - half, difference + half)
            aside = "likeness to the teacher" if "teacher" in name else ""
            yield kdtool.Comparison(
                name, "student", control, student, other, *ends, relative, verdict, 3, 64, aside=aside
            )


def _history(arm: str, seed: int) -> tuple[kdtool.StepReport, ...]:
    rng = random.Random(f"{arm}{seed}")
    steps = 170 if arm == "control-time" else 100
    rate = 2.4 if arm == "student" else 1.4
    floor = {"student": 2.5, "control": 2.72, "control-time": 2.35}[arm]
    reports = []
    for step in range(1, steps + 1):
        fallen = math.exp(-step / 9)
        ce = floor + 8.5 * fallen + 0.9 * math.exp(-step / 40) + 0.06 * rng.gauss(0, 1)
        terms = {"ce": kdtool.TermReport(ce, 1.0, 0.021 * ce)}
        if arm == "student":
            kl = 1.1 + 8 * fallen + 0.7 * math.exp(-step / 40) + 0.05 * rng.gauss(0, 1)
            hidden = 0.35 + 0.9 * math.exp(-step / 25) + 0.01 * rng.gauss(0, 1)
            terms = {
                "forward-kl": kdtool.TermReport(kl, 0.5, 0.011 * kl),
                "ce": kdtool.TermReport(ce, 0.5, 0.0105 * ce),
                "hidden": kdtool.TermReport(hidden, 1.0, 0.016 * hidden),
            }
        loss = sum(term.value * term.weight for term in terms.values())
        reports.append(
            kdtool.StepReport(step, steps, step * 2048, step * rate, loss, 2e-3 * (1 - step / steps), 1.0, terms)
        )
    return tuple(reports)


HOW_TO_USE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("runs/quickstart/exports/safetensors")
tokenizer = AutoTokenizer.from_pretrained("runs/quickstart/exports/safetensors")
inputs = tokenizer("def fibonacci(n):", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))
"""


def _arms() -> Iterator[kdtool.ArmResult]:
    exported = Path("runs/quickstart/exports/safetensors")
    artifact = kdtool.Artifact(exported, "safetensors", 127_451_320, how_to_use=HOW_TO_USE)
    for arm in ("student", "control", "control-time"):
        for seed in (0, 1, 2):
            history = _history(arm, seed)
            last = history[-1]
            folder = Path("runs/quickstart/phases") / f"{arm}-{seed}"
            trained = kdtool.Trained(last.step, last.tokens, last.seconds, folder / "history.jsonl", "bfloat16")
            made = (artifact,) if arm == "student" else ()
            yield kdtool.ArmResult(arm, seed, folder, {"distil": trained}, {"distil": history}, made)


STAGES = [
    ("text", "text", 14.2, True),
    ("signals/teacher", "signals of teacher", 188.0, True),
    *((f"phase/distil/student/{seed}", f"training of student, seed {seed}", 141.0, False) for seed in (0, 1, 2)),
    ("scores/perplexity", "measuring perplexity", 61.0, False),
]
RECIPE_TEXT = """\
name: quickstart
train: {losses: {forward-kl: {weight: 0.5}, ce: {weight: 0.5}}}   # <script>alert("recipe")</script>
control: {match: tokens}
"""


@pytest.fixture
def sample() -> kdtool.Results:
    """Give the whole made-up run."""
    return make_sample()


@pytest.fixture(scope="session")
def sample_page() -> str:
    """Give the page of the whole made-up run, drawn once."""
    return page(make_sample())


def make_sample(**changes: Any) -> kdtool.Results:
    """Make the run, with some of its fields replaced."""
    rejected = {"near-duplicates": {"duplicate of an earlier file": 61}, "syntax": {"does not parse": 4}}
    made = make_results(Path("runs/quickstart"))
    fields: dict[str, Any] = {
        "name": "quickstart",
        "measurements": tuple(_measurements()),
        "subjects": tuple(subjects()),
        "comparisons": tuple(_comparisons()),
        "arms": tuple(_arms()),
        "stages": tuple(
            kdtool.StageRecord(name, "ab12cd34", seconds, reused, Path("runs/store") / name, title)
            for name, title, seconds, reused in STAGES
        ),
        "data": {**made.data, "signal_seconds": 188.0, "rejected": rejected},
        "recipe_text": RECIPE_TEXT,
        "requirements": (),
    }
    return with_values(dataclasses.replace(made, **{**fields, **changes}))


def with_values(results: kdtool.Results, half: float = 0.5) -> kdtool.Results:
    """Return the results with values of arms, each with an interval of the mean and `half` around it."""
    arms = {subject.name: subject.arm or subject.name for subject in results.subjects}
    found: dict[tuple[str, str], list[kdtool.Measurement]] = {}
    for measured in results.measurements:
        found.setdefault((measured.name, arms.get(measured.subject, measured.subject)), []).append(measured)
    values = []
    for (name, arm), seeds in found.items():
        mean = sum(measured.value for measured in seeds) / len(seeds)
        low, high = (mean - half, mean + half) if seeds[0].low is not None else (None, None)
        unit, higher = seeds[0].unit, seeds[0].higher_is_better
        values.append(kdtool.ArmValue(arm, name, unit, higher, mean, low, high, len(seeds)))
    return dataclasses.replace(results, values=tuple(values))
