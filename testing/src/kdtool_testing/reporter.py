"""The suite of reporters, and made-up results of runs for tests of reporters."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest
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
    RunInfo,
    StageRecord,
    StepReport,
    Subject,
    TermReport,
    Trained,
)
from kdtool._contract.reporting import Requirement

from kdtool_testing.component import ComponentConformance

HOSTILE = "\"'><kdtool-tag kdtool-attribute=1></script></style></textarea><!-- {{ 7 * 7 }} ${x} & é \u2028"
_PAGES = {".html", ".htm", ".xhtml", ".svg"}


class ReporterConformance(ComponentConformance):
    """A report is one file below the run's folder that needs nothing else, for every run there can be.

    For pages also: text stays text, and nothing is fetched.
    """

    kind: ClassVar[str] = "reporter"

    def test_it_writes_one_file_below_the_run_s_folder(self, run: RunInfo) -> None:
        before = set(run.folder.rglob("*"))
        path = self.ready(run).kdtool_report(run, make_results(run.folder))
        assert path.resolve().is_relative_to(run.folder.resolve())
        assert {found for found in set(run.folder.rglob("*")) - before if found.is_file()} == {path}
        assert path.stat().st_size

    def test_the_same_results_give_the_same_report(self, run: RunInfo) -> None:
        results = make_results(run.folder)
        first = self.ready(run).kdtool_report(run, results)
        content = first.read_bytes()
        assert self.ready(run).kdtool_report(run, results) == first, "a new report replaces the old one"
        assert first.read_bytes() == content

    def test_it_covers_the_run(self, run: RunInfo) -> None:
        text = self._write(run, make_results(run.folder))
        for word in ("small", "perplexity"):
            assert word in text

    def test_a_run_that_found_out_nothing_is_reported(self, run: RunInfo) -> None:
        assert "small" in self._write(run, empty_results(run.folder))

    @pytest.mark.parametrize(
        "missing",
        [
            "measurements",
            "comparisons",
            "arms",
            "stages",
            "components",
            "models",
            "data",
            "recipe",
            "subjects",
            "licences",
        ],
    )
    def test_runs_that_lack_a_part_are_reported(self, run: RunInfo, missing: str) -> None:
        results = make_results(run.folder)
        self._write(run, replace(results, **{missing: type(getattr(results, missing))()}))

    def test_any_numbers_are_reported(self, run: RunInfo) -> None:
        results = make_results(run.folder)
        for number in (float("nan"), float("inf"), -1e300, 0.0):
            measurements = tuple(
                replace(measured, value=number, low=number, high=number) for measured in results.measurements
            )
            report = StepReport(1, 1, 0, 0.0, number, number, number, {"ce": TermReport(number, number, number)})
            arms = tuple(replace(arm, histories={"distil": (report,)}) for arm in results.arms)
            self._write(run, replace(results, measurements=measurements, arms=arms))
        endless = tuple(
            replace(comparison, difference=1e300, low=low, high=float("inf"), verdict="no evidence of a difference")
            for comparison in results.comparisons
            for low in (-1.0, float("-inf"))
        )
        self._write(run, replace(results, comparisons=endless))

    def test_text_stays_text(self, run: RunInfo) -> None:
        path = self.ready(run).kdtool_report(run, make_results(run.folder, lambda text: f"{text} {HOSTILE}"))
        if path.suffix.lower() in _PAGES:
            page = _Page(path)
            assert "kdtool-tag" not in page.tags, "a text of the results became a tag"
            assert "kdtool-attribute" not in page.attributes
            assert "49" not in "".join(page.texts).split("{{ 7 * 7 }}")[0][-200:], "a text of the results was executed"
            assert "kdtool-tag" in "".join(page.texts), "texts are shown as they are"

    def test_a_page_needs_nothing_else(self, run: RunInfo) -> None:
        path = self.ready(run).kdtool_report(run, make_results(run.folder))
        if path.suffix.lower() in _PAGES:
            page = _Page(path)
            assert page.fetched == []
            styles = re.findall(r"@import|url\(\s*['\"]?(?!data:|#)", path.read_text(encoding="utf-8"))
            assert styles == [], "styles fetch something"

    def _write(self, run: RunInfo, results: Results) -> str:
        path: Path = self.ready(run).kdtool_report(run, results)
        return path.read_text(encoding="utf-8")


class _Page(HTMLParser):
    """Tags, attributes and texts of a page, as a browser reads it."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember the tag, and what it would fetch."""
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        for name, value in attrs:
            fetches = name in {"src", "srcset", "poster", "data", "xlink:href"} or (name == "href" and tag == "link")
            if fetches and not (value or "").startswith(("data:", "#")):
                self.fetched.append(f"<{tag} {name}={value}>")

    def handle_data(self, data: str) -> None:
        """Remember the text."""
        self.texts.append(data)


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
