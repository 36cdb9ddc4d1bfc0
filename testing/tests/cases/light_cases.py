"""Components without torch, sound and broken, under the suites of their kinds; `fails` names the tests that must fail."""

from __future__ import annotations

import html
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import kdtool
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


class LongAndNamed(Long):
    """Names the example in its reason."""

    def judge(self, example: kdtool.Example, number: int) -> str | None:
        return f"{example.id} is long" if len(repr(example.body)) > 5000 else None


class EverySeventh(Long):
    """Depends on how examples are cut into batches."""

    def judge(self, example: kdtool.Example, number: int) -> str | None:
        return "seventh" if number % 7 == 6 else super().judge(example, number)


class Survivors(Long):
    """Returns the survivors instead of a judgement of each."""

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Any:
        return [None for example in examples if self.judge(example, 0) is None]


class Asking(Long):
    """Sends a key of any name to any address."""

    class Config(kdtool.Config):
        url: str = "https://example.org"
        """The address."""
        key_variable: str = "EXAMPLE_API_KEY"
        """The variable."""


class AskingSafely(Long):
    """Sends an API key to an address that the user trusts."""

    class Config(kdtool.Config):
        url: kdtool.ServiceUrl = "https://example.org"
        """The address."""
        key_variable: kdtool.KeyVariable | None = "EXAMPLE_API_KEY"
        """The variable."""


class Filters(FilterConformance):
    def examples(self) -> tuple[Sequence[kdtool.Example], Sequence[kdtool.Example]]:
        kept, rejected = kdtool.Text("x"), kdtool.Text("x" * 6000)
        return [kdtool.Example("a", kdtool.Text("y")), kdtool.Example("b", kept)], [kdtool.Example("c", rejected)]


class TestLong(Filters):
    component = Long
    fails: ClassVar[set[str]] = set()


class TestLongAndNamed(Filters):
    component = LongAndNamed
    fails: ClassVar = {"test_reasons_are_short_and_few"}


class TestEverySeventh(Filters):
    component = EverySeventh
    fails: ClassVar = {"test_it_decides_the_same_each_time_and_in_any_batches"}


class TestSurvivors(Filters):
    component = Survivors
    fails: ClassVar = {"test_there_is_one_answer_for_each_example", "test_it_keeps_and_rejects_what_it_should"}


class TestAsking(Filters):
    component = Asking
    fails: ClassVar = {"test_an_address_that_a_key_is_sent_to_is_a_service_url"}


class TestAskingSafely(Filters):
    component = AskingSafely
    fails: ClassVar[set[str]] = set()


# --- trackers ---


class Counts(kdtool.Tracker):
    """Counts what it hears."""

    heard = 0

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        self.heard += 1


class Whole(Counts):
    """Cannot bear numbers that are not finite."""

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        self.heard += int(report.loss)


class Ordered(Counts):
    """Needs a start before a step."""

    def kdtool_run_start(self, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
        self.lines: list[str] = []

    def kdtool_message(self, run: kdtool.RunInfo, text: str) -> None:
        self.lines.append(text)


class Remote(Counts):
    """Raises when its server cannot be reached."""

    def kdtool_run_start(self, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
        import socket

        socket.getaddrinfo("localhost", 80)


class Litters(Counts):
    """Writes where the process happens to be."""

    def kdtool_run_start(self, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
        Path("log.txt").write_text("started", encoding="utf-8")


class Unseen(Counts):
    """Declares that it shows messages, and shows none."""

    shows_messages = True


class Torn(Counts):
    """Cannot read what it left when it was killed."""

    def kdtool_run_start(self, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
        path = run.folder / "state.json"
        if path.exists():
            json.loads(path.read_text(encoding="utf-8"))
        path.write_text("{", encoding="utf-8")

    def kdtool_run_end(self, run: kdtool.RunInfo, status: str, report: Path | None) -> None:
        (run.folder / "state.json").write_text("{}", encoding="utf-8")


class Bound(Counts):
    """Works in the thread alone in which it was built, as a database's connection does."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._thread = threading.get_ident()

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("created in another thread")


class TestBound(TrackerConformance):
    component = Bound
    fails: ClassVar = {"test_it_can_work_in_another_thread_than_it_was_built_in"}


class TestCounts(TrackerConformance):
    component = Counts
    fails: ClassVar[set[str]] = set()


class TestWhole(TrackerConformance):
    component = Whole
    fails: ClassVar = {"test_odd_values_are_borne"}


class TestOrdered(TrackerConformance):
    component = Ordered
    fails: ClassVar = {"test_events_may_come_without_those_before"}


class TestRemote(TrackerConformance):
    component = Remote
    fails: ClassVar = {"test_it_needs_no_network"}


class TestLitters(TrackerConformance):
    component = Litters
    fails: ClassVar = {"test_it_writes_below_the_run_s_folder_alone"}


class TestUnseen(TrackerConformance):
    component = Unseen
    fails: ClassVar = {"test_it_shows_messages_if_it_declares_so"}


class TestTorn(TrackerConformance):
    component = Torn
    fails: ClassVar = {"test_it_goes_on_after_a_kill"}


# --- reporters ---


class Page(kdtool.Reporter):
    """A plain page of what there is."""

    def kdtool_report(self, run: kdtool.RunInfo, results: kdtool.Results) -> Path:
        path = run.folder / "page.html"
        path.write_text(f"<html><body>{self.body(results)}</body></html>", encoding="utf-8")
        return path

    def body(self, results: kdtool.Results) -> str:
        texts = [results.name, results.verdict, *results.notes, *(repr(found) for found in results.measurements)]
        return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


class Raw(Page):
    """Lets text become tags."""

    def body(self, results: kdtool.Results) -> str:
        return super().body(results) + results.verdict


class Fetching(Page):
    """Needs a script from elsewhere."""

    def body(self, results: kdtool.Results) -> str:
        return super().body(results) + '<script src="https://example.org/chart.js"></script>'


class Dated(Page):
    """Says when it was written."""

    def body(self, results: kdtool.Results) -> str:
        return super().body(results) + f"<p>{time.time_ns()}</p>"


class Demanding(Page):
    """Takes for granted that there are measurements."""

    def body(self, results: kdtool.Results) -> str:
        return super().body(results) + str(results.measurements[0].value)


class Scattered(Page):
    """Writes its style beside it."""

    def kdtool_report(self, run: kdtool.RunInfo, results: kdtool.Results) -> Path:
        (run.folder / "style.css").write_text("p {}", encoding="utf-8")
        return super().kdtool_report(run, results)


class TestPage(ReporterConformance):
    component = Page
    fails: ClassVar[set[str]] = set()


class TestRaw(ReporterConformance):
    component = Raw
    fails: ClassVar = {"test_text_stays_text"}


class TestFetching(ReporterConformance):
    component = Fetching
    fails: ClassVar = {"test_a_page_needs_nothing_else"}


class TestDated(ReporterConformance):
    component = Dated
    fails: ClassVar = {"test_the_same_results_give_the_same_report"}


class TestDemanding(ReporterConformance):
    component = Demanding
    fails: ClassVar = {"test_a_run_that_found_out_nothing_is_reported", "test_runs_that_lack_a_part_are_reported"}


class TestScattered(ReporterConformance):
    component = Scattered
    fails: ClassVar = {"test_it_writes_one_file_below_the_run_s_folder"}


# --- exporters ---


class Copy(kdtool.Exporter):
    """A copy of the folder."""

    def kdtool_export(self, run: kdtool.RunInfo, trained: Path) -> kdtool.Artifact:
        folder = Path(shutil.copytree(trained, run.folder / "copy"))
        self.add(run, folder, trained)
        return kdtool.Artifact(folder, "copy", self.size(folder), how_to_use=self.lines(folder))

    def add(self, run: kdtool.RunInfo, folder: Path, trained: Path) -> None:
        """Add nothing."""

    def size(self, folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.iterdir())

    def lines(self, folder: Path) -> str:
        return "open('{path}')"

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        if subject.role != "artifact" or subject.path is None or not (subject.path / "config.json").is_file():
            return None
        return ToyRuntime()


class Undersized(Copy):
    """Counts the weights alone."""

    def size(self, folder: Path) -> int:
        return (folder / "model.safetensors").stat().st_size


class Placed(Copy):
    """Says where it lies, and it will be moved."""

    def lines(self, folder: Path) -> str:
        return f"open({str(folder)!r})"


class Stamped(Copy):
    """Differs each time."""

    def add(self, run: kdtool.RunInfo, folder: Path, trained: Path) -> None:
        (folder / "stamp").write_text(str(time.time_ns()), encoding="utf-8")


class Spoils(Copy):
    """Changes the student that others use, too."""

    def add(self, run: kdtool.RunInfo, folder: Path, trained: Path) -> None:
        (trained / "README.md").write_text("exported", encoding="utf-8")


class Grabs(Copy):
    """Opens whatever it is asked about."""

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        return ToyRuntime()


class Stays(Copy):
    """Opens only where it was written."""

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        return super().kdtool_open(run, subject) if subject.path and subject.path.parent == run.folder else None


class TestCopy(ExporterConformance):
    component = Copy
    fails: ClassVar[set[str]] = set()


class TestUndersized(ExporterConformance):
    component = Undersized
    fails: ClassVar = {"test_what_it_says_of_its_files_is_so"}


class TestPlaced(ExporterConformance):
    component = Placed
    fails: ClassVar = {"test_what_it_says_of_its_files_is_so"}


class TestStamped(ExporterConformance):
    component = Stamped
    fails: ClassVar = {"test_the_same_student_gives_the_same_files"}


class TestSpoils(ExporterConformance):
    component = Spoils
    fails: ClassVar = {"test_it_writes_below_the_run_s_folder_alone", "test_the_same_student_gives_the_same_files"}


class TestGrabs(ExporterConformance):
    component = Grabs
    fails: ClassVar = {"test_it_opens_nothing_else"}


class TestStays(ExporterConformance):
    component = Stays
    fails: ClassVar = {"test_it_opens_again_wherever_it_lies"}


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
                continue
            scores = list(opened.value.score(list(texts.values())))
            self.done(opened.value)
            yield self.measurement(run, subject, dict(zip(texts, scores, strict=True)))

    def texts(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        found = {example.id: str(example.body) for example in run.texts.examples("test")}
        if not found:
            raise kdtool.UsageError("bits: the split 'test' holds no texts")
        return found

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


class Endless(Bits):
    """Measures infinity."""

    def changed(self, found: kdtool.Measurement) -> kdtool.Measurement:
        return kdtool.Measurement("nats", found.subject, "per byte", float("inf"), found.n, False)


class Off(Bits):
    """Its items are not its value."""

    def changed(self, found: kdtool.Measurement) -> kdtool.Measurement:
        return kdtool.Measurement("nats", found.subject, "per byte", found.value + 1, found.n, False, items=found.items)


class Chance(Bits):
    """Differs from time to time."""

    def changed(self, found: kdtool.Measurement) -> kdtool.Measurement:
        noise = int.from_bytes(os.urandom(2), "little")
        return kdtool.Measurement("nats", found.subject, "per byte", found.value + noise, found.n, False)


class Leaks(Bits):
    """Leaves subjects open."""

    def done(self, runtime: kdtool.Runtime) -> None:
        """Forget it."""


class Silent(Bits):
    """Leaves out what cannot be opened, and does not say so."""

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        yield from super().kdtool_evaluate(run, [s for s in subjects if not str(s.path).endswith(".gguf")])


class Content(Bits):
    """Is content with no texts."""

    def texts(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        return {example.id: str(example.body) for example in run.texts.examples("test")}


class Late(Bits):
    """Refuses no texts only when it measures."""

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Say nothing."""


class Zero(Bits):
    """Gives 0 for no texts."""

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        if any(run.texts.examples("test")):
            yield from super().kdtool_evaluate(run, subjects)
        else:
            yield from (kdtool.Measurement("nats", one.name, "per byte", 0.0, 1, False) for one in subjects)


class Forgiving(Bits):
    """Measures only what the subject answers, so that each subject has items of its own."""

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        requests = [kdtool.Request(name, text, 2) for name, text in self.texts(run).items()]
        for subject in subjects:
            opened = kdtool.open_subject(run, subject)
            if opened is None:
                run.say(f"{subject.name} is left out")
                continue
            with opened.value as runtime:
                answers = [one for one in runtime.answer(requests) if one.finish != "refused"]
            yield self.measurement(
                run, subject, {one.id: kdtool.LogLikelihood(-1.0, 1, one.tokens_out) for one in answers}
            )


class Satisfied(Bits):
    """Takes an empty file for a measurement."""

    class Config(kdtool.Config):
        """The input."""

        file: Path = kdtool.Field(Path("texts.txt"))
        """The texts, a line each."""

    config: Config

    def texts(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        lines = self.config.file.read_text(encoding="utf-8").splitlines()
        return {f"line {number}": line for number, line in enumerate(lines)}


class TestBits(EvaluatorConformance):
    component = Bits
    entry_point = "bits"
    fails: ClassVar[set[str]] = set()


class Undeclared(Bits):
    """Measures something else than it says."""

    measurements = ("nat", "nats-*")


class TestUndeclared(EvaluatorConformance):
    component = Undeclared
    entry_point = "bits"
    fails: ClassVar = {"test_measurements_are_declared"}


class TestEndless(EvaluatorConformance):
    component = Endless
    entry_point = "bits"
    fails: ClassVar = {"test_measurements_are_well_formed"}


class TestOff(EvaluatorConformance):
    component = Off
    entry_point = "bits"
    fails: ClassVar = {"test_items_are_the_value_and_paired"}


class TestChance(EvaluatorConformance):
    component = Chance
    entry_point = "bits"
    fails: ClassVar = {"test_it_is_the_same_again_and_alone"}


class TestLeaks(EvaluatorConformance):
    component = Leaks
    entry_point = "bits"
    fails: ClassVar = {"test_what_was_opened_is_closed"}


class TestSilent(EvaluatorConformance):
    component = Silent
    entry_point = "bits"
    fails: ClassVar = {"test_a_subject_that_cannot_be_opened_is_left_out"}


class TestContent(EvaluatorConformance):
    component = Content
    entry_point = "bits"
    fails: ClassVar = {"test_a_run_without_texts_is_measured_alike_or_an_error"}


class TestLate(EvaluatorConformance):
    component = Late
    entry_point = "bits"
    fails: ClassVar = {"test_a_run_without_texts_is_measured_alike_or_an_error"}


class TestZero(EvaluatorConformance):
    component = Zero
    entry_point = "bits"
    fails: ClassVar = {"test_a_run_without_texts_is_measured_alike_or_an_error"}


class TestForgiving(EvaluatorConformance):
    component = Forgiving
    entry_point = "bits"
    fails: ClassVar = {"test_prompts_without_an_answer_end_nothing"}


class TestSatisfied(EvaluatorConformance):
    component = Satisfied
    entry_point = "bits"
    fails: ClassVar = {"test_files_that_leave_nothing_to_measure_are_an_error"}

    def prepare(self, folder: Path) -> dict[str, Any]:
        (folder / "texts.txt").write_text("a\nbc\n", encoding="utf-8")
        return {"file": str(folder / "texts.txt")}

    def nothing_to_measure(self, folder: Path) -> Iterator[dict[str, Any]]:
        (folder / "texts.txt").touch()
        yield {"file": str(folder / "texts.txt")}
