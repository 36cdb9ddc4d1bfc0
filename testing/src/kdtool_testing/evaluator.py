"""The suite of evaluators."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import exp, isfinite
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kdtool import (
    Completion,
    Example,
    Measurement,
    Request,
    RunInfo,
    Runtime,
    Split,
    Subject,
    Teacher,
    Text,
    TextAnswer,
    Tokenizer,
    UsageError,
    parts_of,
)
from kdtool._store.files import json_lines

from kdtool_testing.component import ComponentConformance
from kdtool_testing.toy import ByteTokenizer, Listener, make_run, write_toy_model
from kdtool_testing.toy.runtime import Opener, ToyRuntime


@dataclass
class Measured:
    """Measurements of one call of the evaluator for all subjects, with the runtimes and messages of the call."""

    folder: Path
    found: list[Measurement]
    runtimes: list[ToyRuntime]
    said: list[str] = field(default_factory=list)


class EvaluatorConformance(ComponentConformance):
    """Measurements are well formed, repeatable, independent of the other subjects, and paired by items.

    The subjects are a teacher, two students, a control and an exported folder, all small; see `opener` and `subjects`.
    """

    kind: ClassVar[str] = "evaluator"
    repeatable: ClassVar[bool] = True
    """True if the same subjects give the same values again; set False for timings."""

    def opener(self, *refused: str) -> Opener:
        """Return a component that opens all subjects except the `refused`."""
        return Opener(*refused)

    def examples(self) -> Sequence[Example]:
        """Return the texts of the run that the evaluator measures on."""
        splits: tuple[Split, ...] = ("train", "validation", "test")
        texts = [(split, i, f"def f{i}(n):\n    return n * {i}\n" * (i + 1)) for split in splits for i in range(6)]
        completion = Example("pair", Completion("# add one\n", "x += 1\n"), split="test")
        return [*(Example(f"{split}-{i}", Text(text), split=split) for split, i, text in texts), completion]

    def nothing_to_measure(self, folder: Path) -> Iterator[Mapping[str, Any]]:
        """Yield settings, over those of `prepare`, that leave nothing to measure; write their files.

        For evaluators that have their problems from files: an empty file, one of another split.
        """
        yield from ()

    def subjects(self, folder: Path) -> Sequence[Subject]:
        """Return the subjects to measure; write their files into `folder`."""
        return (
            Subject("teacher", "teacher"),
            *(
                Subject(f"student-seed{seed}", "student", write_toy_model(folder / f"s{seed}", seed), seed)
                for seed in (0, 1)
            ),
            Subject("control-seed0", "control", write_toy_model(folder / "control", 2), 0),
            Subject("safetensors-seed0", "artifact", write_toy_model(folder / "artifact", 3), 0),
        )

    _measured: ClassVar[Measured]

    @pytest.fixture
    def evaluation(self, tmp_path_factory: pytest.TempPathFactory) -> Measured:
        """The measurements of all subjects, made once for all tests of a class."""
        cls = type(self)
        if "_measured" not in vars(cls):
            cls._measured = self._measure(tmp_path_factory.mktemp("measured"))
        return cls._measured

    def test_there_are_measurements_of_the_subjects(self, evaluation: Measured) -> None:
        names = {subject.name for subject in self.subjects(evaluation.folder)}
        assert evaluation.found
        assert {found.subject for found in evaluation.found} <= names
        pairs = [(found.name, found.subject) for found in evaluation.found]
        assert len(pairs) == len(set(pairs)), "one measurement of a name for each subject"

    def test_measurements_are_declared(self, evaluation: Measured, run: RunInfo) -> None:
        declared = self.ready(run).measurements
        assert not isinstance(declared, str), "measurements are a tuple of names"
        for measurement in evaluation.found:
            assert any(fnmatchcase(measurement.name, name) for name in declared), (
                f"{measurement.name} is missing in `measurements`"
            )

    def test_measurements_are_well_formed(self, evaluation: Measured) -> None:
        for measurement in evaluation.found:
            assert isinstance(measurement, Measurement)
            assert measurement.name
            assert isinstance(measurement.value, float | int)
            assert isfinite(measurement.value), measurement
            assert measurement.n >= 1
            assert (measurement.low is None) == (measurement.high is None)
            if measurement.low is not None and measurement.high is not None:
                assert measurement.low <= measurement.value <= measurement.high, measurement
            assert all(isinstance(text, str) for pair in measurement.settings.items() for text in pair)
            assert all(isinstance(text, str) for pair in measurement.texts.items() for text in pair)

    def test_subjects_are_measured_alike(self, evaluation: Measured) -> None:
        """A name means one thing: its unit, direction and settings do not change from subject to subject."""
        meanings: dict[str, set[tuple[object, ...]]] = {}
        for measurement in evaluation.found:
            meanings.setdefault(measurement.name, set()).add(
                (measurement.unit, measurement.higher_is_better, measurement.transform)
            )
        assert all(len(meaning) == 1 for meaning in meanings.values()), meanings

    def test_items_are_the_value_and_paired(self, evaluation: Measured) -> None:
        paired: dict[str, set[tuple[str, ...]]] = {}
        for measurement in evaluation.found:
            if measurement.items is None:
                continue
            assert measurement.items.resolve().is_relative_to((evaluation.folder / "run").resolve())
            rows = [json.loads(line) for line in json_lines(measurement.items)]
            assert all(set(row) - {"shown"} == {"item", "sum", "weight"} for row in rows)
            assert all(isinstance(text, str) for row in rows for text in row.get("shown", {}).values())
            assert len({row["item"] for row in rows}) == len(rows)
            mean = sum(row["sum"] for row in rows) / sum(row["weight"] for row in rows)
            assert measurement.value == pytest.approx(exp(mean) if measurement.transform == "exp" else mean, rel=1e-6)
            paired.setdefault(measurement.name, set()).add(tuple(sorted(row["item"] for row in rows)))
        assert all(len(items) == 1 for items in paired.values()), "subjects are compared item by item: the same items"

    def test_it_is_the_same_again_and_alone(self, evaluation: Measured, tmp_path: Path) -> None:
        if not self.repeatable:
            return
        groups: list[Sequence[Subject] | None] = [None]
        if not self.component.measures_jointly:  # type: ignore[attr-defined]
            subjects = self.subjects(evaluation.folder)
            with_teacher = [[subjects[0], subject] for subject in subjects[1:]]
            groups = [None, *([subject] for subject in subjects), *with_teacher]
        for number, group in enumerate(groups):
            folder = tmp_path / str(number)
            folder.mkdir()
            for measurement in self._measure(folder, group, files=evaluation.folder).found:
                same = [
                    other
                    for other in evaluation.found
                    if (other.name, other.subject) == (measurement.name, measurement.subject)
                ]
                assert len(same) == 1
                assert measurement.value == pytest.approx(same[0].value, rel=1e-6)
                assert measurement.settings == same[0].settings

    def test_what_was_opened_is_closed(self, evaluation: Measured) -> None:
        assert all(runtime.closed for runtime in evaluation.runtimes)

    def test_a_subject_that_cannot_be_opened_is_left_out(self, tmp_path: Path) -> None:
        lost = Subject("lost", "artifact", tmp_path / "gone.gguf", 0)
        (tmp_path / "gone.gguf").write_bytes(b"GGUF?")
        evaluation = self._measure(tmp_path, [lost], refused=("lost",))
        assert all(measurement.n >= 1 and isfinite(measurement.value) for measurement in evaluation.found)
        assert evaluation.said, "tell the user which subject is left out: call run.say"

    def test_nothing_to_measure_is_no_error(self, tmp_path: Path) -> None:
        assert self._measure(tmp_path, []).found == []

    def test_a_run_without_texts_is_measured_alike_or_an_error(self, evaluation: Measured, tmp_path: Path) -> None:
        """An evaluator of the run's texts must not return an empty result silently: its error names the recipe key."""
        measurements: list[Measurement] = []
        refusal = ""
        try:
            measurements = self._measure(tmp_path, examples=()).found
        except UsageError as error:
            refusal = str(error)
        with_texts, without = (
            {
                (measurement.name, measurement.subject): measurement.value if self.repeatable else 0.0
                for measurement in each
            }
            for each in (evaluation.found, measurements)
        )
        alike = without.keys() == with_texts.keys() and without == pytest.approx(with_texts, rel=1e-6)
        assert alike or refusal, "raise a kdtool.UsageError if nothing is left to measure"
        assert alike or self.entry_point in refusal, "the message names the evaluator's key"
        assert alike or self._early_refusal(tmp_path, ()) == refusal, (
            "kdtool_check reports it, before anything is trained"
        )

    def test_files_that_leave_nothing_to_measure_are_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "files").mkdir()
        for number, settings in enumerate(self.nothing_to_measure(tmp_path / "files")):
            (tmp_path / str(number)).mkdir()
            with pytest.raises(UsageError, match=re.escape(self.entry_point)) as caught:
                self._measure(tmp_path / str(number), settings=settings)
            early = self._early_refusal(tmp_path / str(number), self.examples(), settings)
            assert early == str(caught.value), "kdtool_check reports it, before anything is trained"

    def test_prompts_without_an_answer_end_nothing(
        self, evaluation: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All requests but the first are refused, as prompts that are too long are: the items stay the same."""
        answer = ToyRuntime.answer

        def refusing(runtime: ToyRuntime, requests: Iterable[Request]) -> Iterator[TextAnswer]:
            for number, reply in enumerate(answer(runtime, requests)):
                yield TextAnswer(reply.id, "", "refused", reply.tokens_in, 0) if number else reply

        monkeypatch.setattr(ToyRuntime, "answer", refusing)
        again = {(measurement.name, measurement.subject): measurement for measurement in self._measure(tmp_path).found}
        for measurement in evaluation.found:
            assert (measurement.name, measurement.subject) in again, "what is refused counts as failed"
            assert _items(again[measurement.name, measurement.subject]) == _items(measurement)

    def test_its_problems_are_named_whole_and_the_same_again(self, run: RunInfo) -> None:
        found = [list(self.ready(run).kdtool_problems(run) or ()) for _ in range(2)]
        assert found[0] == found[1]
        assert len({problem.id for problem in found[0]}) == len(found[0])
        assert all(isinstance(problem, Example) and "".join(parts_of(problem.body)).strip() for problem in found[0])

    def test_files_are_written_into_the_run_s_folder_alone(
        self, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        monkeypatch.chdir(elsewhere)
        self._measure(tmp_path, [Subject("teacher", "teacher")])
        assert list(elsewhere.iterdir()) == []

    def _measure(
        self,
        folder: Path,
        subjects: Sequence[Subject] | None = None,
        refused: tuple[str, ...] = (),
        examples: Sequence[Example] | None = None,
        files: Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Measured:
        run_folder = folder / "run"
        run_folder.mkdir()
        said: list[str] = []
        opener = self.opener(*refused)
        companions: Mapping[str, Any] = {"listener": Listener(), "opener": opener, **self.companions(folder)}
        if self.component.compares_with_teachers:  # type: ignore[attr-defined]
            companions = {"teacher": _Opened(opener), **companions}
        given = self.examples() if examples is None else examples
        run: RunInfo = make_run(run_folder, companions, given, say=said.append)
        evaluator = self.build(**{**self._prepare_once(run_folder), **settings}) if settings else self.ready(run)
        chosen = self.subjects(files or folder) if subjects is None else subjects
        measured = list(self._evaluate(evaluator, run, chosen))
        evaluator.kdtool_close()
        return Measured(folder, measured, opener.opened, said)

    def _early_refusal(
        self, folder: Path, examples: Sequence[Example], settings: Mapping[str, Any] | None = None
    ) -> str:
        run = make_run(folder / "run", {"listener": Listener(), **self.companions(folder)}, examples)
        try:
            self.build(**{**self._prepare_once(run.folder), **(settings or {})}).kdtool_check(run, "text")
        except UsageError as error:
            return str(error)
        return ""

    def _evaluate(self, evaluator: Any, run: RunInfo, subjects: Sequence[Subject]) -> Iterator[Measurement]:
        assert isinstance(evaluator.measures_jointly, bool)
        assert isinstance(evaluator.compares_with_teachers, bool)
        if not evaluator.compares_with_teachers:
            yield from evaluator.kdtool_evaluate(run, subjects) or ()
            return
        assert not evaluator.measures_jointly, "subjects are measured one by one"
        teachers = [self._with_files(evaluator, run, each) for each in subjects if each.role == "teacher"]
        for subject in subjects:
            if subject.role != "teacher":
                yield from evaluator.kdtool_evaluate(run, (*teachers, subject)) or ()

    def _with_files(self, evaluator: Any, run: RunInfo, teacher: Subject) -> Subject:
        """Measure a teacher by itself, and return it with the folder that the evaluator filled."""
        folder = run.folder / teacher.name
        folder.mkdir()
        assert not list(evaluator.kdtool_evaluate(replace(run, folder=folder), (teacher,)) or ())
        return replace(teacher, files=folder)


class _Opened(Teacher):
    """A teacher with a known tokenizer, opened as the other subjects are."""

    def __init__(self, opener: Opener) -> None:
        super().__init__(self.Config())
        self._opener = opener

    def kdtool_tokenizer(self, run: RunInfo) -> Tokenizer:
        return ByteTokenizer()

    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        return self._opener.kdtool_open(run, subject)


def _items(measurement: Measurement) -> set[str]:
    """Return the items of a measurement."""
    if measurement.items is None:
        return set()
    return {json.loads(line)["item"] for line in json_lines(measurement.items)}
