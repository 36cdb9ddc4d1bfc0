"""Evaluators, the subjects that they measure, and values and comparisons of arms.

Subjects are models in memory, folders of models, and the artefacts that exporters write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kdtool._contract.component import Component, hook
from kdtool._contract.data import Example
from kdtool._contract.language_model import Runtime
from kdtool._contract.run_info import RunInfo
from kdtool._statistics import FEWEST
from kdtool._text.terminal import number, number_range

Role = Literal["artifact", "student", "control", "base", "reference", "teacher"]
"""Roles in the order of comparisons: each is compared with those after it. "base" is the student before it was
trained by the run, "reference" an existing model that nothing learns from."""


@dataclass(frozen=True)
class Subject:
    """A model to measure. `path` is a folder or file; None if only the teacher itself can open it.

    `seed` is its training seed, None if it has none (a teacher). `arm` is the common name of all its seeds, such as
    "student"; "" if that is the name. `files` is a teacher's folder: see `Evaluator.compares_with_teachers`. Since 0.1.
    """

    name: str
    role: Role
    path: Path | None = None
    seed: int | None = None
    arm: str = field(default="", kw_only=True)
    files: Path | None = field(default=None, kw_only=True)

    def open_runtime(self) -> Runtime | None:
        """Return the runtime of a model in memory, in a subclass; None for files, which components open. Since 0.1."""
        return None


@dataclass(frozen=True)
class Measurement:
    """One number about one subject.

    The `unit` "fraction" is a share from 0 to 1: intervals of it and of its differences stay within their bounds, few
    items that all pass or all fail have a wide one, and reports show percent. Intervals of perplexity ("per token", "exp")
    end at 1, those in "bits per byte", "nats per token", "words", "bytes", "seconds" and "tokens/s" at 0. `n` is the
    number of items; `low` and `high` bound a 95 % interval over them, None if there is none. `settings` hold everything
    needed to reproduce the number. `items` is a JSON Lines file with one object per item: {"item": id, "sum": float,
    "weight": float}. The value is then `transform`(Σ sum / Σ weight), and two subjects are compared item by item. An
    object may also have "shown": named texts for reports, such as an answer and a verdict on it. `texts` are shown
    without being compared, such as completions by prompt. `aside` names what is measured if it is not an ability, such as
    "likeness to the teacher": the verdict does not rest on it.
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
    texts: Mapping[str, str] = field(default_factory=dict)
    aside: str = ""


@dataclass(frozen=True)
class Artifact:
    """A file or folder that an exporter wrote. `bytes` counts all its files; `quantisation` is "" if there is none.

    `how_to_use` is code to copy, with `{path}` for the artefact's final place. `card` is a model card in Markdown, which
    the engine writes as README.md into the artefact's folder, or next to its file; `Exporter.kdtool_card` completes it.
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
    measurements: Sequence[str] = ()
    """Names of all measurements that it can yield; `*` stands for a part that only a run knows, such as a teacher's name.

    May depend on the config. A name in `require` that matches none of them is refused before anything is loaded. () if
    unknown: such a name is then noticed at the end of the run. Since 0.1.
    """
    measures_jointly: bool = False
    """True if all subjects must be measured in one call (interleaved timings); otherwise one call per subject, and runs
    share the measurements of a teacher."""
    compares_with_teachers: bool = False
    """True if it compares other subjects with the teachers. Each teacher is measured first, in a separate call, and its
    `run.folder` is kept. Each other subject is measured later, after the teachers in `subjects`, whose `files` are these
    folders. The reference and files that the run exports are left out."""
    reads_text: bool = True
    """True if `kdtool_evaluate` reads `run.texts`; otherwise scores do not depend on the text, and `run.texts` is empty."""
    asks: Sequence[str] = ()
    """Teachers that it uses besides the subjects, such as a judge, by their names in the recipe (`teacher`,
    `teachers.NAME`); may depend on the config. Scores depend on them. Other teachers refuse to answer."""

    @hook(needed=True)
    def kdtool_evaluate(self, run: RunInfo, subjects: Sequence[Subject]) -> Iterator[Measurement]:
        """Yield measurements of the subjects; open them by `kdtool.open_subject(run, subject)`. On rank 0.

        Other ranks take part in `answer` and `score` of an opened subject, unless `measures_jointly` or
        `compares_with_teachers` is true.
        One measurement of a name for each subject, with the same items in the same settings, so that subjects can be
        compared. Leave out measurements that are impossible, with a message by `run.say`. Items are files below
        `run.folder`. Since 0.1.
        """
        raise NotImplementedError

    def kdtool_problems(self, run: RunInfo) -> Sequence[Example] | None:
        """Return all of the benchmark's problems, even if fewer are measured: prompts with reference solutions.

        Called by components that compare text with benchmarks, also for their `kdtool_identity`: cheap, no weights are
        loaded. Ids are unique, no problem is empty, and the result is the same each time. None if there are no problems.
        Since 0.1.
        """


@dataclass(frozen=True)
class ArmValue:
    """One arm on one measurement: the mean over its `seeds` seeds, with its 95 % interval.

    The interval covers other items and, with several seeds, other seeds. With one seed it is that of the measurement.
    `low` and `high` are None if several seeds were not measured item by item, or the evaluator returned no interval.
    Since 0.1.
    """

    arm: str
    measurement: str
    unit: str
    higher_is_better: bool
    value: float
    low: float | None
    high: float | None
    seeds: int

    def __str__(self) -> str:
        bounds = number_range(self.low, self.high)
        return f"{number(self.value)} ({bounds})" if bounds else number(self.value)


@dataclass(frozen=True)
class Comparison:
    """Two arms on one measurement, paired over items and seeds: `arm` against another.

    An arm is "student", "control", "control-time", a teacher's or a file's name. `difference` is `value` minus
    `against_value` after the transform (a ratio minus 1 for "exp"); `low` and `high` bound its 95 % interval, over items
    and, if there are several, seeds; a ratio's may be infinite if a seed diverged. `verdict` is "better", "worse" or "no
    evidence of a difference", seen from `arm`; with fewer than 12 items always the last. `share` is `value` as a share of
    a teacher's, with its 95 % interval if there is one; None against other arms, and for metrics without a meaningful
    ratio: lower is better, or the unit has no zero. `aside` is the measurement's.
    """

    measurement: str
    arm: str
    against: str
    value: float
    against_value: float
    difference: float
    low: float
    high: float
    relative: bool
    verdict: Literal["better", "worse", "no evidence of a difference"]
    seeds: int
    items: int
    share: tuple[float, float | None, float | None] | None = None
    aside: str = ""

    @property
    def outcome(self) -> str:
        """The verdict in the words that are shown everywhere: of fewer than 12 items, "too few items". Since 0.1."""
        return self.verdict if self.items >= FEWEST else "too few items"


_FIGURES = 4
_IN_BRIEF = {
    "better": "better than",
    "worse": "worse than",
    "no evidence of a difference": "not shown to differ from",
    "too few items": "not judged against",
}


def tabulate(values: Sequence[ArmValue], comparisons: Sequence[Comparison]) -> Iterator[list[str]]:
    """Yield a row of headings, then the main figures of each arm with their intervals.

    Main figures are the first four that arms were compared in; without comparisons, the first four of all.
    """
    shown = main_figures(values, comparisons)
    cells = {(value.arm, value.measurement): value for value in values}
    arrows = {value.measurement: "↑" if value.higher_is_better else "↓" for value in values}
    yield ["subject", *(f"{name} {arrows[name]}" for name in shown)]
    for arm in dict.fromkeys(value.arm for value in values if value.measurement in shown):
        yield [arm, *(str(cells.get((arm, name), "–")) for name in shown)]


def main_figures(values: Sequence[ArmValue], comparisons: Sequence[Comparison]) -> list[str]:
    """Return the first four measurements that arms were compared in; without comparisons, the first four of all."""
    compared = dict.fromkeys(found.measurement for found in comparisons)
    return [*(compared or dict.fromkeys(value.measurement for value in values))][:_FIGURES]


def judge(comparisons: Sequence[Comparison], *, trained: bool) -> list[Comparison]:
    """Return what the verdict is about: the student of a training against controls and reference, or all models."""
    main = [each for each in comparisons if each.arm == "student" and each.against.startswith(("control", "reference"))]
    return main if trained else list(comparisons)


def shorten(comparisons: Sequence[Comparison], *, trained: bool) -> str:
    """Return the verdict in a few words: of a `trained` student against controls and reference, or of all models.

    Abilities come first. Other measurements are named where they differ. Of more than two pairs of models only those that
    differ are named, if that takes at most three parts.
    """
    shown = judge(comparisons, trained=trained)
    pairs = dict.fromkeys((each.arm, each.against) for each in shown)
    if trained and not pairs:
        return "not compared with a control"
    many = not trained and len(pairs) > 2
    opponents: dict[tuple[str, str], list[str]] = {}
    for aside in dict.fromkeys(["", *(each.aside for each in shown)]):
        for arm, against in pairs:
            made = [each for each in shown if (each.arm, each.against, each.aside) == (arm, against, aside)]
            for outcome, words in _IN_BRIEF.items():
                names = [each.measurement for each in made if each.outcome == outcome]
                if names and (not (aside or many) or outcome in {"better", "worse"}):
                    where = f"{aside} (not an ability)" if aside else _count(names, len(made))
                    few = f", with fewer than {FEWEST} items" * (outcome == "too few items")
                    opponents.setdefault((words if trained else f"{arm} {words}", where + few), []).append(against)
    parts = [f"{words} {' and '.join(others)} in {where}" for (words, where), others in opponents.items()]
    if not many:
        return "; ".join(parts) or "nothing was compared"
    differing = len({(each.arm, each.against) for each in shown if each.outcome in {"better", "worse"}})
    named = f": {'; '.join(parts)}" if 0 < len(parts) <= 3 else ""
    return f"{differing} of {len(pairs)} pairs shown to differ{named}"


def _count(names: Sequence[str], made: int) -> str:
    if len(names) < 3:
        return " and ".join(names)
    return f"all {made} measurements" if len(names) == made else f"{len(names)} of {made} measurements"
