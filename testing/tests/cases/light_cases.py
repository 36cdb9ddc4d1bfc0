"""Components without torch, sound and broken, under the suites of their kinds."""

from __future__ import annotations

import html
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import kdtool
from case import Located, prepare, variant
from kdtool_testing import (
    EvaluatorConformance,
    ExporterConformance,
    FilterConformance,
    ReporterConformance,
    ToyRuntime,
    TrackerConformance,
)

# --- filters ---


class Long(kdtool.Filter):
    """Rejects what is long."""

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> list[str | None]:
        return [self.judge(example, number) for number, example in enumerate(examples)]

    def judge(self, example: kdtool.Example, number: int) -> str | None:
        return "long" if len(repr(example.body)) > 5000 else None


class TestLong(FilterConformance):
    component = Long

    def examples(self) -> tuple[Sequence[kdtool.Example], Sequence[kdtool.Example]]:
        kept, rejected = kdtool.Text("x"), kdtool.Text("x" * 6000)
        return [kdtool.Example("a", kdtool.Text("y")), kdtool.Example("b", kept)], [kdtool.Example("c", rejected)]


class Trusted(kdtool.Config):
    """An API key for an address that the user trusts, a template, and tokens."""

    url: kdtool.ServiceUrl = "https://example.org"
    """The address."""
    cluster: Literal["auto"] | kdtool.ServiceUrl = "auto"
    """HOST:PORT of the cluster."""
    server: Literal["ours", "theirs"] = "ours"
    """The service."""
    key_variable: kdtool.KeyVariable | None = "EXAMPLE_API_KEY"
    """The variable."""
    variables: dict[str, tuple[str, ...]] = kdtool.Field(default={})
    """Words for the template."""
    fim_tokens: tuple[str, ...] = ()
    """Three tokens of the tokenizer."""


variant(
    TestLong,
    "names the example in its reason",
    "test_reasons_are_short_and_few",
    judge=lambda self, example, number: Long.judge(self, example, number) and f"{example.id} is long",
)
variant(
    TestLong,
    "depends on how examples are cut into batches",
    "test_it_decides_the_same_each_time_and_in_any_batches",
    judge=lambda self, example, number: "seventh" if number % 7 == 6 else Long.judge(self, example, number),
)
variant(
    TestLong,
    "returns the survivors instead of a judgement of each",
    "test_there_is_one_answer_for_each_example",
    "test_it_keeps_and_rejects_what_it_should",
    kdtool_filter=lambda self, run, examples: [None for one in examples if self.judge(one, 0) is None],
)
variant(TestLong, "sends a key to a trusted address", Config=Trusted)
variant(TestLong, "has a file that only prepare knows", Config=Located, also={"prepare": prepare})


# --- trackers ---


class Counts(kdtool.Tracker):
    """Counts steps."""

    heard = 0

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        self.heard += 1


class TestCounts(TrackerConformance):
    component = Counts


def remember_the_thread(self: Any, config: Any) -> None:
    Counts.__init__(self, config)
    self.thread = threading.get_ident()


def refuse_another_thread(self: Any, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
    if threading.get_ident() != self.thread:
        raise RuntimeError("created in another thread")


def write_half(self: Any, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
    path = run.folder / "state.json"
    if path.exists():
        json.loads(path.read_text(encoding="utf-8"))
    path.write_text("{", encoding="utf-8")


def write_whole(self: Any, run: kdtool.RunInfo, status: str, report: Path | None) -> None:
    (run.folder / "state.json").write_text("{}", encoding="utf-8")


def round_off(self: Any, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
    self.heard += int(report.loss)


def connect(self: Any, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
    socket.getaddrinfo("localhost", 80)


def litter(self: Any, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
    Path("log.txt").write_text("started", encoding="utf-8")


variant(
    TestCounts,
    "works only in the thread in which it was built, as a database's connection does",
    "test_it_can_work_in_another_thread_than_it_was_built_in",
    __init__=remember_the_thread,
    kdtool_step_end=refuse_another_thread,
)
variant(TestCounts, "fails on numbers that are not finite", "test_odd_values_are_borne", kdtool_step_end=round_off)
variant(
    TestCounts,
    "needs a start before a message",
    "test_events_may_come_without_those_before",
    kdtool_run_start=lambda self, run, stages: setattr(self, "lines", []),
    kdtool_message=lambda self, run, text: self.lines.append(text),
)
variant(TestCounts, "raises when its server cannot be reached", "test_it_needs_no_network", kdtool_run_start=connect)
variant(
    TestCounts, "writes into the working folder", "test_it_writes_below_the_run_s_folder_alone", kdtool_run_start=litter
)
variant(
    TestCounts,
    "declares that it shows messages, and shows none",
    "test_it_shows_messages_if_it_declares_so",
    shows_messages=True,
)
variant(
    TestCounts,
    "cannot read its file after a kill",
    "test_it_goes_on_after_a_kill",
    kdtool_run_start=write_half,
    kdtool_run_end=write_whole,
)


# --- reporters ---


class Page(kdtool.Reporter):
    """A plain page of all results."""

    def kdtool_report(self, run: kdtool.RunInfo, results: kdtool.Results) -> Path:
        path = run.folder / "page.html"
        texts = [results.name, results.verdict, *results.notes, *(repr(found) for found in results.measurements)]
        body = "".join(f"<p>{html.escape(text)}</p>" for text in texts)
        path.write_text(f"<html><body>{body}{self.more(results)}</body></html>", encoding="utf-8")
        return path

    def more(self, results: kdtool.Results) -> str:
        return ""


class TestPage(ReporterConformance):
    component = Page


def write_style(self: Any, run: kdtool.RunInfo, results: kdtool.Results) -> Path:
    (run.folder / "style.css").write_text("p {}", encoding="utf-8")
    return Page.kdtool_report(self, run, results)


variant(TestPage, "lets text become tags", "test_text_stays_text", more=lambda self, results: results.verdict)
variant(
    TestPage,
    "needs a script from elsewhere",
    "test_a_page_needs_nothing_else",
    more=lambda self, results: '<script src="https://example.org/chart.js"></script>',
)
variant(
    TestPage,
    "contains the time at which it was written",
    "test_the_same_results_give_the_same_report",
    more=lambda self, results: f"<p>{time.time_ns()}</p>",
)
variant(
    TestPage,
    "takes for granted that there are measurements",
    "test_a_run_that_found_out_nothing_is_reported",
    "test_runs_that_lack_a_part_are_reported",
    more=lambda self, results: str(results.measurements[0].value),
)
variant(
    TestPage,
    "writes its style into a second file",
    "test_it_writes_one_file_below_the_run_s_folder",
    kdtool_report=write_style,
)


# --- exporters ---


class Copy(kdtool.Exporter):
    """A copy of the folder."""

    def kdtool_export(self, run: kdtool.RunInfo, trained: Path) -> kdtool.Artifact:
        folder = Path(shutil.copytree(trained, run.folder / "copy"))
        self.add(folder, trained)
        size = sum(path.stat().st_size for path in folder.iterdir())
        return kdtool.Artifact(folder, "copy", size, how_to_use=self.lines(folder))

    def add(self, folder: Path, trained: Path) -> Any:
        """Add nothing."""

    def lines(self, folder: Path) -> str:
        return "open('{path}')"

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        if subject.role != "artifact" or subject.path is None or not (subject.path / "config.json").is_file():
            return None
        return ToyRuntime()


class TestCopy(ExporterConformance):
    component = Copy


def open_in_place(self: Any, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
    return Copy.kdtool_open(self, run, subject) if subject.path and subject.path.parent == run.folder else None


variant(
    TestCopy,
    "shows the folder in which it was written, and it will be moved",
    "test_what_it_says_of_its_files_is_so",
    lines=lambda self, folder: f"open({str(folder)!r})",
)
variant(
    TestCopy,
    "changes the student that others use, too",
    "test_it_writes_below_the_run_s_folder_alone",
    "test_the_same_student_gives_the_same_files",
    add=lambda self, folder, trained: (trained / "README.md").write_text("exported", encoding="utf-8"),
)
variant(
    TestCopy, "opens every subject", "test_it_opens_nothing_else", kdtool_open=lambda self, run, subject: ToyRuntime()
)
variant(TestCopy, "opens only where it was written", "test_it_opens_again_wherever_it_lies", kdtool_open=open_in_place)


# --- evaluators ---


class Bits(kdtool.Evaluator):
    """Bits per byte of the test texts."""

    measurements: Sequence[str] = ("nats",)

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        if when == "text":
            self.texts(run)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        texts = self.texts(run)
        for subject in subjects if texts else ():
            opened = kdtool.open_subject(run, subject)
            if opened is None:
                run.say(f"{subject.name} is left out")
            else:
                scores = self.scores(opened.value, texts)
                self.done(opened.value)
                yield self.measurement(run, subject, scores)

    def texts(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        found = split(self, run)
        if not found:
            raise kdtool.UsageError("bits: the split 'test' holds no texts")
        return found

    def scores(self, runtime: kdtool.Runtime, texts: Mapping[str, str]) -> Mapping[str, kdtool.LogLikelihood]:
        return dict(zip(texts, runtime.score(list(texts.values())), strict=True))

    def done(self, runtime: kdtool.Runtime) -> None:
        runtime.close()

    def measurement(
        self, run: kdtool.RunInfo, subject: kdtool.Subject, scores: Mapping[str, kdtool.LogLikelihood]
    ) -> kdtool.Measurement:
        items = run.folder / f"{subject.name}.jsonl"
        rows = [{"item": name, "sum": -s.log_likelihood, "weight": s.bytes} for name, s in scores.items()]
        items.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        value = sum(row["sum"] for row in rows) / sum(row["weight"] for row in rows)  # type: ignore[misc]
        return self.changed(kdtool.Measurement("nats", subject.name, "per byte", value, len(rows), False, items=items))

    def changed(self, found: kdtool.Measurement) -> kdtool.Measurement:
        return found


class TestBits(EvaluatorConformance):
    component = Bits
    entry_point = "bits"


class File(kdtool.Config):
    """The input."""

    file: Path = kdtool.Field(Path("texts.txt"))
    """The texts, a line each."""


def split(self: Any, run: kdtool.RunInfo) -> Mapping[str, str]:
    return {example.id: str(example.body) for example in run.texts.examples("test")}


def lines(self: Any, run: kdtool.RunInfo) -> Mapping[str, str]:
    return {f"line {n}": line for n, line in enumerate(self.config.file.read_text(encoding="utf-8").splitlines())}


def two_lines(self: Any, folder: Path) -> dict[str, Any]:
    (folder / "texts.txt").write_text("a\nbc\n", encoding="utf-8")
    return {"file": str(folder / "texts.txt")}


def no_lines(self: Any, folder: Path) -> Iterator[dict[str, Any]]:
    (folder / "texts.txt").touch()
    yield {"file": str(folder / "texts.txt")}


def answered(self: Any, runtime: kdtool.Runtime, texts: Mapping[str, str]) -> Mapping[str, kdtool.LogLikelihood]:
    answers = runtime.answer([kdtool.Request(name, text, 2) for name, text in texts.items()])
    return {one.id: kdtool.LogLikelihood(-1.0, 1, one.tokens_out) for one in answers if one.finish != "refused"}


variant(TestBits, "declares other measurements", "test_measurements_are_declared", measurements=("nat", "nats-*"))
variant(
    TestBits,
    "measures infinity",
    "test_measurements_are_well_formed",
    changed=lambda self, found: replace(found, value=float("inf"), items=None),
)
variant(
    TestBits,
    "reports a value that its items do not have",
    "test_items_are_the_value_and_paired",
    changed=lambda self, found: replace(found, value=found.value + 1),
)
variant(
    TestBits,
    "differs from time to time",
    "test_it_is_the_same_again_and_alone",
    changed=lambda self, found: replace(found, value=found.value + int.from_bytes(os.urandom(2)), items=None),
)
variant(TestBits, "leaves subjects open", "test_what_was_opened_is_closed", done=lambda self, runtime: None)
variant(
    TestBits,
    "leaves out what cannot be opened without a word",
    "test_a_subject_that_cannot_be_opened_is_left_out",
    kdtool_evaluate=lambda self, run, subjects: Bits.kdtool_evaluate(
        self, run, [one for one in subjects if not str(one.path).endswith(".gguf")]
    ),
)
EMPTY = "test_a_run_without_texts_is_measured_alike_or_an_error"
variant(TestBits, "refuses no texts only when it measures", EMPTY, kdtool_check=lambda self, run, when: None)
variant(
    TestBits,
    "measures only what the subject answers, so that subjects have different items",
    "test_prompts_without_an_answer_end_nothing",
    scores=answered,
)
variant(
    TestBits,
    "takes an empty file for a measurement",
    "test_files_that_leave_nothing_to_measure_are_an_error",
    also={"prepare": two_lines, "nothing_to_measure": no_lines},
    Config=File,
    texts=lines,
)
