"""Ctrl-C and stop signals at every stage: exit code 130, one sentence, and the same command resumes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import kdtool
import pytest
from kdtool._cli import call
from pydantic import TypeAdapter

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows sends Ctrl-C to whole consoles, not to a process"
)

RECIPE = """\
name: faulty
corpus: faulty-corpus
rows: faulty-packer
teacher: faulty-teacher
signals: faulty-cache
student: faulty-student
trainer: faulty-trainer
train: {loss: faulty-imitate, steps: 3}
evaluators: [faulty-nats]
exporters: [faulty-exporter]
trackers: [faulty-tracker]
reporter: faulty-reporter
"""
PLACES = [
    "import",
    "Corpus.__init__",
    "Corpus.kdtool_identity",
    "Corpus.kdtool_examples",
    "Student.kdtool_build_student",
    "Packer.kdtool_rows",
    "Cache.kdtool_record",
    "Trainer.kdtool_train",
    "Unigram.save",
    "Export.kdtool_export",
    "Nats.kdtool_evaluate",
    "Report.kdtool_report",
    "Events.kdtool_stage_end",
]
SENTENCE = "finished work is kept, run the same command to continue"


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """Restore Ctrl-C: processes that a shell starts in its background ignore it, and so would those that tests start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _start(site: Path, fault: str, *command: str, marker: str = "marker") -> subprocess.Popen[str]:
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "TOY_FAULT": fault, "TOY_MARKER": str(Path(marker).absolute()), "PYTHONPATH": path}
    arguments = [sys.executable, "-m", "kdtool", *(command or ("run", "recipe.yaml"))]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _await(marker: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(3000):
        if marker.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError(f"{marker} is not reached")


def _interrupted(process: subprocess.Popen[str], number: int = signal.SIGINT, *, keeps: bool = True) -> str:
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert said.count(SENTENCE) == keeps, said
    assert "Traceback" not in said, said
    assert "error: " not in said, said
    return said


def _finishes() -> None:
    manifests = {path: path.stat().st_mtime_ns for path in Path().glob("*/**/manifest.json")}
    assert call(["run", "recipe.yaml"]) == 0
    assert {path: path.stat().st_mtime_ns for path in manifests} == manifests


@pytest.fixture(autouse=True)
def _recipe(tmp_path: Path, faulty_installed: None) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_anywhere_is_resumable(place: str, faulty_site: Path, tmp_path: Path) -> None:
    process = _start(faulty_site, f"{place}=hang")
    _await(tmp_path / "marker", process)
    assert "interrupted;" in _interrupted(process)
    _finishes()


def test_ctrl_c_while_checking(faulty_site: Path, tmp_path: Path) -> None:
    process = _start(faulty_site, "Teacher.kdtool_describe=hang", "check", "recipe.yaml")
    _await(tmp_path / "marker", process)
    _interrupted(process, keeps=False)


def test_a_second_ctrl_c_ends_the_cleaning_up(faulty_site: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    process = _start(faulty_site, "Trainer.kdtool_train=hang;Teacher.kdtool_close=hang")
    _await(marker, process)
    marker.unlink()
    process.send_signal(signal.SIGINT)
    _await(marker, process)
    _interrupted(process)
    _finishes()


@pytest.mark.parametrize("place", ["import", "Trainer.kdtool_train"])
def test_a_stop_signal_is_handled_like_ctrl_c(place: str, faulty_site: Path, tmp_path: Path) -> None:
    process = _start(faulty_site, f"{place}=hang")
    _await(tmp_path / "marker", process)
    assert "stopped by SIGTERM;" in _interrupted(process, signal.SIGTERM)
    _finishes()


def test_a_signal_that_is_ignored_stays_ignored(faulty_site: Path, tmp_path: Path) -> None:
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        process = _start(faulty_site, "Trainer.kdtool_train=hang")
    finally:
        signal.signal(signal.SIGTERM, previous)
    _await(tmp_path / "marker", process)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    _interrupted(process)


class _Interrupting(type(Path())):  # type: ignore[misc]
    """A path at whose writing Ctrl-C arrives."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["kdtool._run.execute.write_results", "kdtool._run.graph._deciding"])
def test_ctrl_c_while_pydantic_writes_json(
    place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(place, lambda *_: TypeAdapter(Path).dump_json(_Interrupting("a")))
        assert call(["run", "recipe.yaml"]) == 130
    said = capsys.readouterr().err
    assert f"interrupted; {SENTENCE}" in said
    assert "error: " not in said
    _finishes()


def test_ctrl_c_while_python_runs_a_text_ends_with_the_same_code(tmp_path: Path) -> None:
    code = """
        from kdtool._cli.failure import exit_with, interrupt_on_stop_signals
        interrupt_on_stop_signals()
        try:
            exec("raise KeyboardInterrupt")  # as dataclasses run the text of their methods
        except KeyboardInterrupt:
            print("kept")
            exit_with(130)
    """
    (tmp_path / "interrupted.py").write_text(textwrap.dedent(code), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "kept\n")


def test_ctrl_c_at_any_moment_leaves_what_goes_on_to_the_same_results(faulty_site: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    codes: list[int] = []
    holder = tmp_path / "runs" / "faulty" / "lock.json"
    latest = 0.25
    while len(codes) < 4 or (130 not in codes and len(codes) < 20):
        holder.unlink(missing_ok=True)
        process = _start(faulty_site, "")
        _await(holder, process)
        time.sleep(generator.uniform(0.0, latest))
        latest *= 0.8  # how long a run takes is the machine's
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert process.returncode in {0, 130}, said
        assert "Traceback" not in said
        assert "error: " not in said
        codes.append(process.returncode)
    assert 130 in codes
    _finishes()
    found = kdtool.run("recipe.yaml").measurements
    assert [(each.name, each.value) for each in found] == [
        (each.name, each.value) for each in kdtool.run("recipe.yaml", out="other", store="other store").measurements
    ]
