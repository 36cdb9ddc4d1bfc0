"""Made-up results of runs, for tests of reporters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kdtool import (
    ArmResult,
    ArmValue,
    Artifact,
    Comparison,
    ComponentRecord,
    LicenceTerms,
    Licensed,
    Measurement,
    ModelFacts,
    Results,
    StageRecord,
    StepReport,
    Subject,
    TermReport,
    Trained,
)
from kdtool._contract.reporting import Requirement

__all__ = ["empty_results", "make_results"]

ARMS = ("student", "control", "control-time")


def make_results(folder: Path, text: Callable[[str], str] = str) -> Results:
    """Return the results of a finished run: two seeds, a student and two controls, two terms.

    Args:
        folder: the run's folder; nothing is written.
        text: receives every free text of the results, and returns its replacement.
    """
    arms = tuple(_arm(folder, arm, seed, text) for arm in ARMS for seed in (0, 1))
    subjects = (
        Subject("teacher", "teacher"),
        *(Subject(f"{arm}-seed{seed}", "student" if arm == "student" else "control", folder, seed, arm=arm)
          for arm in ARMS for seed in (0, 1)),
        Subject("safetensors-seed0", "artifact", folder / "exports", 0, arm="student-safetensors"),
    )  # fmt: skip
    return Results(
        name="small",
        folder=folder,
        verdict=text("The student is better than the control."),
        measurements=tuple(measurement for subject in subjects for measurement in _measurements(subject.name, text)),
        comparisons=tuple(
            Comparison("perplexity", "student", other, 12.0, 14.0, -0.14, -0.2, -0.1, True, "better", 2, 64)
            for other in (*ARMS[1:], "teacher")
        ),
        arms=arms,
        stages=(
            StageRecord("text", "a" * 64, 1.5, True, folder / "text", "text"),
            StageRecord("phases/student-seed0-distil", "b" * 64, 60.0, False, folder / "phases", "training of student"),
        ),
        components=(
            ComponentRecord("teacher", "teacher", "causal-lm", "kdtool-teacher-causal-lm", "0.1", {"model": text("m")}),
            ComponentRecord(text("losses.own"), "loss", text("./own.py:Own"), "", "", {text("gamma"): 2.0}),
        ),
        models={"student": _facts(10), "teacher": _facts(30)},
        data={"documents": {"train": 100, "test": 12}, "licences": {text("MIT"): 90, "": 22}, "rows": 64},
        recipe={"name": "small", "teacher": {"use": "causal-lm", "model": text("m")}},
        recipe_text=text("name: small\nteacher: {use: causal-lm}\n"),
        environment={"python": "3.11.7", "processor": text("x86_64")},
        seconds=123.4,
        notes=(text("hidden was 0.4% of the terms' gradient"),),
        subjects=subjects,
        requirements=(
            Requirement("quality.perplexity", text("<= 13"), 12.0, True, text("is 12")),
            Requirement("quality.own-score", text(">= 0"), -0.25, False, text("is -0.25, 0.25 off >= 0")),
        ),
        values=tuple(_values(subjects, text)),
        licences=(Licensed("teacher", _terms(text), ("signals",), (), text("Apache-2.0")),),
    )


def empty_results(folder: Path) -> Results:
    """Return the results of a run without any content."""
    return Results("small", folder, "", (), (), (), (), (), {}, {}, {}, "", {}, 0.0)


def _measurements(subject: str, text: Callable[[str], str]) -> tuple[Measurement, ...]:
    value = 5.0 + len(subject) / 7
    settings = {"split": "test", text("texts"): text("64 documents")}
    return (
        Measurement("perplexity", subject, "per token", value, 64, False, value - 0.5, value + 0.5, settings),
        Measurement("decode-speed", subject, text("tokens/s"), 42.0, 1, True),
        Measurement(text("own-score"), subject, "", -0.25, 3, True, -0.5, 0.0, settings),
    )


def _values(subjects: Sequence[Subject], text: Callable[[str], str]) -> Iterator[ArmValue]:
    for arm, number in Counter(subject.arm or subject.name for subject in subjects).items():
        for measurement in _measurements(arm, text):
            yield ArmValue(
                arm,
                measurement.name,
                measurement.unit,
                measurement.higher_is_better,
                measurement.value,
                measurement.low,
                measurement.high,
                number,
            )


def _terms(text: Callable[[str], str]) -> LicenceTerms:
    return LicenceTerms(
        text("Apache-2.0"), "https://example.org/licence", (text("name the source"),), notices=(text("(c)"),)
    )


def _arm(folder: Path, arm: str, seed: int, text: Callable[[str], str]) -> ArmResult:
    history = tuple(
        StepReport(step, 5, step * 512, step * 0.5, 4.0 / step, 1e-3, 0.5, {
            "ce": TermReport(5.0 / step, 0.5, 0.1), "own": TermReport(3.0 / step, 0.5),
        })
        for step in range(1, 6)
    )  # fmt: skip
    last = history[-1]
    phase = folder / "phases" / f"{arm}-{seed}"
    trained = Trained(last.step, last.tokens, last.seconds, phase / "history.jsonl", "float32", (text("a note"),))
    how = text("model = AutoModelForCausalLM.from_pretrained('…')")
    artifacts = (Artifact(folder / "exports", "safetensors", 12345, how_to_use=how),) if arm == "student" else ()
    return ArmResult(arm, seed, phase / "model", {"distil": trained}, {"distil": history}, artifacts)


def _facts(layers: int) -> ModelFacts:
    return ModelFacts(10**6 * layers, 10**6 * layers, layers, 64, 4, 2, 128, 50_000, 2048, "float32", True, "f" * 64)
