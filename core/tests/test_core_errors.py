"""Every error class at every stage: exit code, who is named, no traceback, and that the run goes on from what was finished.

The stages fail where `faulty.py` is told to fail; what only the core raises has cases of its own below.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from kdtool import _errors
from kdtool._cli import call
from kdtool._errors import KdtoolError

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
CLASSES: dict[str, type[KdtoolError]] = {
    name: found for name, found in vars(_errors).items() if inspect.isclass(found) and issubclass(found, KdtoolError)
}
RECIPE = """\
name: faulty
corpus: faulty-corpus
filter: faulty-filter
rows: faulty-packer
teacher: faulty-teacher
signals: faulty-cache
student: faulty-student
trainer: faulty-trainer
train:
  losses: {faulty-count: {weight: 0.5}, faulty-imitate: {weight: 0.5}}
  transforms: [faulty-transform]
  weightings: [faulty-weighting]
  steps: 3
evaluators: [faulty-nats]
exporters: [faulty-exporter]
trackers: {faulty-tracker: {required: true}}
reporter: faulty-reporter
"""
STAGES = {
    "Corpus.__init__": "corpus 'corpus'",
    "Corpus.kdtool_identity": "corpus 'corpus'",
    "Corpus.kdtool_examples": "corpus 'corpus'",
    "Filter.kdtool_filter": "filter 'filter'",
    "Weighting.kdtool_annotate": "weighting 'train.weightings.faulty-weighting'",
    "Student.kdtool_build_student": "student 'student'",
    "Packer.kdtool_rows": "packer 'rows'",
    "Cache.kdtool_record": "cache 'signals'",
    "Teacher.kdtool_signal": "teacher 'teacher'",
    "Student.kdtool_open": "student 'student'",
    "Transform.kdtool_transform": "transform 'train.transforms.faulty-transform'",
    "Trainer.kdtool_train": "trainer 'trainer'",
    "Events.kdtool_stage_end": "tracker 'trackers.faulty-tracker'",
    "Export.kdtool_export": "exporter 'exporters.faulty-exporter'",
    "Nats.kdtool_evaluate": "evaluator 'evaluators.faulty-nats'",
    "Report.kdtool_report": "reporter 'reporter'",
}
"""Hooks in which a plugin can raise, one of each stage, with the component that the error must name."""
DISTRIBUTION = "faulty-plugins 1.0"


@pytest.fixture
def faulty(faulty_installed: None, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")


def _kdtool(site: Path, *arguments: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "TOY_FAULT": fault, "PYTHONPATH": path}
    command = [sys.executable, "-m", "kdtool", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8", env=environment)


def _locked(site: Path) -> subprocess.CompletedProcess[str]:
    Path("runs/faulty").mkdir(parents=True)
    with FileLock("runs/faulty/.lock"):
        return _kdtool(site, "run", "recipe.yaml")


def _damaged(site: Path) -> subprocess.CompletedProcess[str]:
    _kdtool(site, "run", "recipe.yaml", fault="Student.kdtool_build_student=ValueError")
    (file,) = Path("store/text").glob("*/train.jsonl")
    file.write_text("", encoding="utf-8")
    return _kdtool(site, "run", "recipe.yaml")


def _broken_recipe(site: Path) -> subprocess.CompletedProcess[str]:
    Path("recipe.yaml").write_text(RECIPE.replace("  steps: 3\n", "  steps: 3\n  stepss: 300\n"), encoding="utf-8")
    return _kdtool(site, "check", "recipe.yaml")


def _fault(fault: str) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    return lambda site: _kdtool(site, "run", "recipe.yaml", fault=fault)


CORES_OWN: dict[str, tuple[Callable[[Path], subprocess.CompletedProcess[str]], str]] = {
    "KdtoolError": (_fault("Corpus.kdtool_examples=ValueError"), "faulty-plugins 1.0) failed: ValueError: planned"),
    "UsageError": (lambda site: _kdtool(site, "report", "nowhere"), "is not a finished run"),
    "RecipeError": (_broken_recipe, "recipe.yaml:14:3: train.stepss: unknown key"),
    "PluginError": (_fault("Corpus.kdtool_examples=same id"), "yields the example id 'same' twice"),
    "BudgetError": (_fault("Teacher.kdtool_signal=BudgetError"), "planned\n  in teacher 'teacher'"),
    "AuthenticationError": (_fault("Teacher.kdtool_signal=AuthenticationError"), "planned\n  in teacher 'teacher'"),
    "ServiceError": (_fault("Teacher.kdtool_signal=ServiceError"), "planned\n  in teacher 'teacher'"),
    "TargetMissedError": (_fault("Nats.kdtool_evaluate=TargetMissedError"), "planned\n  in evaluator 'evaluators."),
    "LockedError": (_locked, "is in use"),
    "StorageError": (_damaged, "train.jsonl"),
    "MemoryExceededError": (_fault("Trainer.kdtool_train=MemoryError"), "not enough memory in trainer 'trainer'"),
}
"""One run of the real command line for each class: by what the core finds itself where it does, else by a plugin."""


def test_every_class_has_a_case_and_a_code_of_its_own() -> None:
    assert set(CORES_OWN) == set(CLASSES)
    codes = [cls.exit_code for name, cls in CLASSES.items() if name not in {"KdtoolError", "RecipeError"}]
    assert sorted(codes) == list(range(1, 10))


def _wording(message: str) -> str:
    """Return a message without names, places and numbers."""
    kept = [line for line in message.strip().splitlines() if not line.startswith(("  at ", "reading ", "writing "))]
    return re.sub(r"'[^']*'|\([^)]*\)|\S*/\S*|\d+|ValueError: .*", "*", "\n".join(kept))


def _page() -> dict[str, str]:
    """The sections of the page about errors, by class."""
    parts = re.split(r"^## (\w+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", CORES_OWN)
def test_exit_code_of_the_command_line(name: str, faulty: None, faulty_site: Path) -> None:
    run, message = CORES_OWN[name]
    done = run(faulty_site)
    if PAGE.exists() and "planned\n" not in message:
        example = _page()[name].partition("```text\n")[2].partition("```")[0]
        assert _wording(example) == _wording(done.stderr)
    assert done.returncode == CLASSES[name].exit_code, done.stderr
    assert message in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr


def test_command_that_ends_well_exits_with_0(faulty: None, faulty_site: Path) -> None:
    done = _kdtool(faulty_site, "check", "recipe.yaml")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), "the line that it begins with"


FOREIGN = {
    "MemoryError": (9, "not enough memory in "),
    "torch on the CPU": (9, "not enough memory in "),
    "torch on CUDA": (9, "not enough memory in "),
    "full disk": (8, "No space left on device"),
    "ValueError": (1, "failed: ValueError: planned"),
    "BrokenPipeError": (1, "failed: BrokenPipeError"),
    "sys.exit": (1, "tried to end the process (exit code 0)"),
    "click.exit": (1, "failed: Exit: 0"),
    "BaseException": (1, "failed: BaseException: planned"),
}
ALL, LATE = ";".join(FOREIGN), "ValueError;MemoryError;sys.exit"
FAULTS = {
    "Teacher.kdtool_describe": ALL,
    "Report.kdtool_report": f"{ALL};None;text;no file",
    "Unigram.save": LATE,
    "Corpus.kdtool_examples": "None;text;numbers;same id;surrogate;late ValueError",
    "Corpus.kdtool_identity": "text",
    "Filter.kdtool_filter": "None;too few;numbers",
    "Weighting.kdtool_annotate": "None;text;numbers for text;short values;other names",
    "Student.kdtool_build_student": "None;text",
    "Student.kdtool_open": "None;text",
    "Packer.kdtool_rows": (
        f"{ALL};None;text;numbers;same key;short labels;huge ids;short column;other columns;late ValueError"
    ),
    "Cache.kdtool_record": "None;text;fewer",
    "Teacher.kdtool_signal": "None;text",
    "Transform.kdtool_transform": "text;numbers;late ValueError",
    "Trainer.kdtool_train": f"{ALL};None;text;no history",
    "Export.kdtool_export": "None;text;outside;no artifact",
    "Nats.kdtool_evaluate": "None;text;numbers;nan;items outside;other subject;late ValueError",
}
"""Errors that are not ours, in hooks and in what hooks returned, and wrong answers."""


EXPECTED = {**{name: (cls.exit_code, "planned") for name, cls in CLASSES.items()}, **FOREIGN}


@pytest.mark.parametrize("place", [*STAGES, *(place for place in FAULTS if place not in STAGES)])
def test_errors_of_every_class_and_wrong_answers_at_every_stage_name_the_plugin(
    place: str, faulty: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = []
    for what in [*(CLASSES if place in STAGES else ()), *filter(None, FAULTS.get(place, "").split(";"))]:
        monkeypatch.setenv("TOY_FAULT", f"{place}={what}")
        code, said = call(["check" if "describe" in place else "run", "recipe.yaml"]), capsys.readouterr().err
        expected, message = EXPECTED.get(what, (1, ""))
        named = DISTRIBUTION in said or what == "full disk"
        if what in CLASSES:
            named = named and STAGES[place] in said and said.count("error: ") == 1
        if code != expected or message not in said or not named or "Traceback" in said:
            failed.append(f"{what}: {code} {said}")
    assert not failed, "\n".join(failed)
    monkeypatch.setenv("TOY_FAULT", "")
    before = {path: path.stat().st_mtime_ns for path in Path().glob("*/**/manifest.json")}
    assert call(["run", "recipe.yaml"]) == 0, capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was finished is not made again"
