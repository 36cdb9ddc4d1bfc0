"""Evaluators and exporters, and the subjects that they measure and write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kdtool._contract.component import Component
from kdtool._contract.data import Example
from kdtool._contract.hooks import hook
from kdtool._contract.language_model import LanguageModel, Runtime
from kdtool._contract.run_info import RunInfo

Role = Literal["teacher", "student", "control", "artifact"]


@dataclass(frozen=True)
class Subject:
    """Something to be measured. `path` is a folder or file; None where only the teacher itself can open it.

    `seed` is the training seed it came from, None for what has none (a teacher). `arm` is what all its seeds are called,
    such as "student"; "" where that is the name. Since 0.1.
    """

    name: str
    role: Role
    path: Path | None = None
    seed: int | None = None
    arm: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class LiveSubject(Subject):
    """A subject that is in memory, such as a student while it learns. `kdtool.open_subject` asks no component for it."""

    model: LanguageModel | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Measurement:
    """One number about one subject.

    The `unit` "fraction" is a share from 0 to 1: no interval of it or of its differences goes beyond, few items that all
    pass or all fail have a wide one, and reports show percent. `n` is the number of items behind it; `low` and `high` bound
    a 95 % interval over them, None where there is none. `settings` say what someone else needs to get the same number.
    `items` is a JSON Lines file with one object an item: {"item": id, "sum": float, "weight": float}. The value is then
    `transform`(Σ sum / Σ weight), and two subjects are compared item by item. An object may have "shown" besides: texts by
    what they are, such as an answer and a verdict on it, which reports show.
    """

    name: str
    subject: str
    unit: str
    value: float
    n: int
    higher_is_better: bool
    low: float | None = None
    high: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    items: Path | None = None
    transform: Literal["identity", "exp"] = "identity"


@dataclass(frozen=True)
class Artifact:
    """A file or folder that an exporter wrote. `bytes` counts all its files; `quantisation` is "" if there is none.

    `how_to_use` are lines to copy, with `{path}` where the artefact's final place goes. `card` is a model card in Markdown:
    the engine adds what was measured and writes it as README.md into the artefact's folder, or beside its file.
    """

    path: Path
    format: str
    bytes: int
    quantisation: str = ""
    how_to_use: str = ""
    card: str = ""


class Evaluator(Component):
    """Measures subjects."""

    kind = "evaluator"
    together: bool = False
    """Whether all subjects must be measured in one call (timings are interleaved); else one call a subject."""
    reads_text: bool = True
    """True if `kdtool_evaluate` reads `run.texts`; if not, other text measures nothing again, and there is none to read."""
    asks: Sequence[str] = ()
    """Teachers that it asks besides the subjects, such as a judge, by their names in the recipe (`teacher`,
    `teachers.NAME`); may depend on the config. Scores depend on them. Others cannot be asked."""

    def kdtool_measurable(self, run: RunInfo) -> None:
        """Refuse what leaves nothing to measure on, `run.texts` and files. On rank 0, when the text is there.

        That is before anything is trained, but for a teacher that the text comes from. Raises the UsageErrors that
        `kdtool_evaluate` would raise: those of all evaluators are shown at once. Cheap beside measuring; nothing is written,
        and subjects are not there yet. Since 0.1.
        """

    @hook(needed=True)
    def kdtool_evaluate(self, run: RunInfo, subjects: Sequence[Subject]) -> Iterator[Measurement]:
        """Yield measurements of the subjects; open them by `kdtool.open_subject(run, subject)`. On rank 0.

        One measurement of a name for each subject, with the same items in the same settings, so that subjects can be
        compared. What cannot be measured is left out and said by `run.say`. Items are files below `run.folder`. Since 0.1.
        """
        raise NotImplementedError

    def kdtool_problems(self, run: RunInfo) -> Sequence[Example] | None:
        """Return the benchmark's problems, all of them however few are asked: prompts with reference solutions.

        Called by components that compare text with benchmarks, also for their `kdtool_identity`: cheap, no weights are
        loaded. Ids are unique, no problem is empty, and it is the same ones each time. None for who has no problems.
        Since 0.1.
        """


class Exporter(Component):
    """Writes a trained student in a format, and opens what it wrote."""

    kind = "exporter"

    def kdtool_exportable(self, run: RunInfo, untrained: Path) -> None:
        """Refuse the student in folder `untrained`, of which nothing could be written once it is trained. On rank 0.

        Raises the UsageErrors that `kdtool_export` would raise: those of all exporters are shown at once. Cheap: of the
        model only its configuration and tokenizer are looked at. Since 0.1.
        """

    @hook(needed=True)
    def kdtool_export(self, run: RunInfo, trained: Path) -> Artifact:
        """Write the student in folder `trained` (as `LanguageModel.save` left it) below `run.folder`. On rank 0.

        The artefact is a file or folder of its own there; the engine moves it, so nothing in it names its place. The same
        student gives the same files. `trained` stays as it is. Since 0.1.
        """
        raise NotImplementedError

    @hook(first=True)
    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        """Open what this exporter wrote (role "artifact"), wherever it lies now; None for others. Since 0.1."""
