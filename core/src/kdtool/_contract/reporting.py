"""Results of a run, and the components that carry them out of it: trackers, reporters and exporters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from kdtool._contract.component import Component, hook
from kdtool._contract.evaluation import ArmValue, Artifact, Comparison, Measurement, Subject, shorten, tabulate
from kdtool._contract.language_model import ModelFacts, Runtime
from kdtool._contract.licences import Licensed
from kdtool._contract.run_info import RunInfo
from kdtool._contract.training import StepReport, Trained
from kdtool._errors import UsageError
from kdtool._text.terminal import html_table


@dataclass(frozen=True)
class Requirement:
    """A condition of the recipe: the student's value, None if it was not measured, and the outcome in words."""

    measurement: str
    condition: str
    value: float | None
    met: bool
    text: str


@dataclass(frozen=True)
class ComponentRecord:
    """A component that took part: enough to trace a number to the code that made it."""

    name: str
    kind: str
    use: str
    distribution: str
    version: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class StageRecord:
    """An artefact of the run: `seconds` is the time to make it, whenever that was; `reused` if it was not made now.

    `title` is the stage in words, such as "training of student, seed 0".
    """

    name: str
    fingerprint: str
    seconds: float
    reused: bool
    path: Path
    title: str = ""


@dataclass(frozen=True)
class ArmResult:
    """One arm with one seed: the cost of each phase and the place of the model."""

    arm: str
    seed: int
    path: Path
    phases: Mapping[str, Trained]
    histories: Mapping[str, tuple[StepReport, ...]] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class ExportedFile:
    """A file or folder of the student's first seed: its arm in measurements, "" if it was not measured.

    `comparisons` are those with the student, by measurement. Since 0.1.
    """

    artifact: Artifact
    arm: str
    comparisons: Mapping[str, Comparison]


@dataclass(frozen=True)
class Results:
    """All results of a run. `folder` holds `results.json` with the same content.

    `subjects` hold the role, arm and seed of each measured subject; `models` the shapes of "student" and of each teacher by
    component name; `data` the counts of documents and bytes per split, licences, languages, sources, rejections, rows,
    the seconds of the teacher's signals, and the components' `accounts`. `values` hold each arm's mean over its seeds, with
    the interval that reports show. Each of `requirements` has `measurement`, `condition`, `value` (None if not measured),
    `met`, and `text`, the outcome in words. Paths below `folder` are relative to it in `results.json`. A notebook shows
    results as a small table.
    """

    name: str
    folder: Path
    verdict: str
    measurements: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...]
    arms: tuple[ArmResult, ...]
    stages: tuple[StageRecord, ...]
    components: tuple[ComponentRecord, ...]
    models: Mapping[str, ModelFacts]
    data: Mapping[str, Any]
    recipe: Mapping[str, Any]
    recipe_text: str
    environment: Mapping[str, str]
    seconds: float
    notes: tuple[str, ...] = ()
    report: Path | None = None
    subjects: tuple[Subject, ...] = ()
    licences: tuple[Licensed, ...] = ()
    requirements: tuple[Requirement, ...] = ()
    values: tuple[ArmValue, ...] = ()

    @property
    def outcome(self) -> str:
        """The verdict in a few words."""
        return shorten(self.comparisons, trained=bool(self.arms))

    def table(self) -> list[list[str]]:
        """Return the main figures of each arm with 95 % intervals, as text: a row of headings, then a row for each arm.

        Main figures are the first four that arms were compared in; without comparisons, the first four of all.
        """
        return list(tabulate(self.values, self.comparisons))

    def exported_files(self) -> list[ExportedFile]:
        """Return the files that the student's first seed was exported to, compared with the student.

        Each has an `artifact`, an `arm` ("" if it was not measured), and `comparisons` by measurement. Since 0.1.
        """
        students = sorted((arm for arm in self.arms if arm.arm == "student"), key=lambda arm: arm.seed)
        arms = {subject.path: subject.arm or subject.name for subject in self.subjects if subject.role == "artifact"}
        files = []
        for artifact in students[0].artifacts if students else ():
            arm = arms.get(artifact.path, "")
            compared = [each for each in self.comparisons if (each.arm, each.against) == (arm, "student")]
            files.append(ExportedFile(artifact, arm, {each.measurement: each for each in compared}))
        return files

    def path_of(self, artifact: Artifact) -> Path:
        """Return where users find an exported file or folder: `exports/NAME` in the run's folder, without a fingerprint.

        Without hard links, or where another model has taken that name since, it is the path of the artefact. Since 0.1.
        """
        link, path = export_link(artifact, self.folder), self.folder / artifact.path
        return link if link.is_dir() or (link.exists() and link.samefile(path)) else path

    def to_dataframe(self) -> Any:
        """Return `values` as a pandas DataFrame with a row for each arm and measurement.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ModuleNotFoundError as error:
            raise UsageError("to_dataframe needs pandas; install it with: pip install pandas") from error
        return pandas.DataFrame(map(asdict, self.values), columns=[field.name for field in fields(ArmValue)])

    def __repr__(self) -> str:
        return f"<Results of {self.name!r}: {self.outcome}; {len(self.measurements)} measurements, in {self.folder}>"

    def _repr_html_(self) -> str:
        return (
            f"<p><b>{escape(self.name)}</b>: {escape(self.outcome)}</p>{html_table(self.table())}{escape(where(self))}"
        )


def export_link(artifact: Artifact, folder: Path) -> Path:
    """Return `exports/NAME` below a run's folder: a file's own name, the exporter's for folders, since several may be alike.

    The path of an artefact outside `exports/EXPORTER-FINGERPRINT` is returned unchanged.
    """
    exports, path = folder / "exports", folder / artifact.path
    below = path.relative_to(exports).parts[:1] if path.is_relative_to(exports) else ()
    exporter, dash, _ = "".join(below).rpartition("-")
    if not dash:
        return path
    return exports / (path.name if path.is_file() else exporter)


def where(results: Results) -> str:
    """Return a line with the path of the report, or of the run's folder if there is no report."""
    return f"report: {results.folder / results.report}" if results.report else f"results: {results.folder}"


class Tracker(Component):
    """Logs the events of a run. A tracker that raises is reported once and disabled for the rest of the run.

    Any hook may be called first, numbers may be infinite or NaN, and texts may contain anything. A resumed run begins again
    with `kdtool_run_start`, in the same folder; steps after the last checkpoint then come again. A phase went back if a
    step's number is not above the last one of its stage: what was logged from that number on is superseded.

    Hooks are called in order in the tracker's own thread, `kdtool_close` included, so that no step waits. They get the
    run as a whole: `run.folder` is the run's, `run.time` the time of the event. Use no other component of the run. Events
    are shared: do not change them.
    """

    kind = "tracker"
    shows_messages: bool = False
    """True if it shows each line of `kdtool_message` to the user at once. If no tracker does, kdtool prints the lines to
    standard error. Its hooks are called as if it were `synchronous`."""
    synchronous: bool = False
    """True if hooks must be called where the event happens, in the caller's thread, which waits for them. A tracker that
    the recipe marks `required` is always called so."""

    @hook(tolerant=True)
    def kdtool_run_start(self, run: RunInfo, stages: Sequence[StageRecord]) -> None:
        """The run begins, with all its `stages` in their order. Once, on rank 0, before the first of them.

        Stages that are there already are `reused`, with the seconds that they took. A run that is refused before its stages
        are known does not begin, but may emit messages, and ends. Since 0.1.
        """

    @hook(tolerant=True)
    def kdtool_stage_start(self, run: RunInfo, total: int | None, unit: str) -> None:
        """A stage (`run.stage`, `run.arm`, `run.seed`) begins; `total` is its number of units, None if unknown.

        Since 0.1.
        """

    @hook(tolerant=True)
    def kdtool_progress(self, run: RunInfo, done: int, total: int | None) -> None:
        """`done` units of the stage are done, of `total`; None leaves that of the stage's start.

        Called at most about ten times per second. Since 0.1.
        """

    @hook(tolerant=True)
    def kdtool_step_end(self, run: RunInfo, report: StepReport) -> None:
        """A training step was logged. On rank 0. Since 0.1."""

    @hook(tolerant=True)
    def kdtool_measurement(self, run: RunInfo, measurement: Measurement) -> None:
        """A measurement was made. Since 0.1."""

    @hook(tolerant=True)
    def kdtool_checkpoint(self, run: RunInfo, path: Path, step: int) -> None:
        """A checkpoint is complete on disk. Since 0.1."""

    @hook(tolerant=True)
    def kdtool_message(self, run: RunInfo, text: str) -> None:
        """A component, or kdtool, emits a line for the user; see `shows_messages`. Since 0.1."""

    @hook(tolerant=True)
    def kdtool_stage_end(self, run: RunInfo, seconds: float, reused: bool) -> None:
        """A stage ended; `reused` is true if its artefact existed already, without a start. Since 0.1."""

    @hook(tolerant=True)
    def kdtool_run_end(
        self, run: RunInfo, status: Literal["done", "failed", "interrupted"], report: Path | None
    ) -> None:
        """The run ended. Since 0.1."""


class Reporter(Component):
    """Writes the report for people."""

    kind = "reporter"

    @hook(needed=True)
    def kdtool_report(self, run: RunInfo, results: Results) -> Path:
        """Write the report, one self-contained file below `run.folder`, and return its path.

        Once at the end, on rank 0, also for a run that failed: any part of `results` may be empty. Escape all text in it.
        The same results give the same file, in the same place. Since 0.1.
        """
        raise NotImplementedError


class Exporter(Component):
    """Writes a trained student in a format, and opens the result."""

    kind = "exporter"

    @hook(needed=True)
    def kdtool_export(self, run: RunInfo, trained: Path) -> Artifact:
        """Write the student in folder `trained` (written by `LanguageModel.save`) below `run.folder`. On rank 0.

        The artefact is a separate file or folder there; the engine moves it, so it must not contain its path. The same
        student and `run.texts` give the same files. Do not change `trained`. Since 0.1.
        """
        raise NotImplementedError

    @hook(first=True)
    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        """Open an artefact of this exporter (role "artifact"), wherever it is now; None for others. Since 0.1."""

    def kdtool_card(self, run: RunInfo, artifact: Artifact, results: Results) -> str | None:
        """Return the artefact's model card with the run's measurements, in Markdown; None keeps `artifact.card`.

        Called at the end of every run, on rank 0, for an artefact that has a card. The same results give the same card.
        Since 0.1.
        """
