"""Ctrl-C and stop signals before, in and after training: exit code 130, one sentence, and the same command resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import kdtool
import pytest
from kdtool._cli import call

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
PLACES = ["import", "Packer.kdtool_rows", "Trainer.kdtool_train", "Report.kdtool_report"]
DESTROYED = """\
import signal, sys, time, weakref
from kdtool._cli.failure import interrupt_on_stop_signals

class Object: pass

def signalled(_):
    signal.raise_signal(getattr(signal, sys.argv[1]))

interrupt_on_stop_signals()
kept = Object()
reference = weakref.ref(kept, signalled)
del kept
try:
    time.sleep(20)
except KeyboardInterrupt as stop:
    print(repr(stop))
"""
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


@pytest.mark.parametrize(("name", "said"), [("SIGINT", ""), ("SIGTERM", "'SIGTERM'")])
def test_a_signal_is_not_lost_while_an_object_is_destroyed(name: str, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", DESTROYED, name], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"KeyboardInterrupt({said})\n", "")


@pytest.mark.parametrize(
    ("place", "number", "said"),
    [
        ("import", signal.SIGINT, "interrupted while importing "),
        *((place, signal.SIGINT, "interrupted;") for place in PLACES[1:]),
        ("Trainer.kdtool_train", signal.SIGTERM, "stopped by SIGTERM;"),
    ],
)
def test_ctrl_c_or_a_stop_signal_anywhere_is_resumable(
    place: str, number: int, said: str, faulty_site: Path, tmp_path: Path
) -> None:
    process = _start(faulty_site, f"{place}=hang")
    _await(tmp_path / "marker", process)
    assert said in _interrupted(process, number)
    _finishes()


def test_ctrl_c_while_checking_keeps_nothing(faulty_site: Path, tmp_path: Path) -> None:
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
    resumed, whole = kdtool.run("recipe.yaml"), kdtool.run("recipe.yaml", out="other", store="new")
    assert [one.value for one in resumed.measurements] == [one.value for one in whole.measurements]
