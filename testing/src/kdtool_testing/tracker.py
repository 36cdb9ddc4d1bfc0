"""The suite of trackers: every hook, in the order of a run and out of it, with odd values and without a network."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kdtool import Measurement, RunInfo, StageRecord, StepReport, TermReport, Tracker

from kdtool_testing.component import ComponentConformance, as_called

ODD = "é 漢 \x1b[31m\x00\u2028 <b>&amp;</b> [bold]{0} %s\r\n\ttail " + "long " * 400
_KILLED = """
import importlib, json, os, sys
from pathlib import Path
from kdtool_testing import make_run
from kdtool_testing.tracker import tell_a_run
module, name, settings, folder = json.loads(sys.stdin.read())
cls = importlib.import_module(module)
for part in name.split("."):
    cls = getattr(cls, part)
run = make_run(Path(folder))
tell_a_run(cls(cls.Config.model_validate_json(settings, strict=True)), run, last=lambda: os._exit(9))
"""


class TrackerConformance(ComponentConformance):
    """A tracker accepts any event in any order, resumes after a kill, and needs no network."""

    kind: ClassVar[str] = "tracker"

    def ready(self, run: RunInfo) -> Any:
        """Build the tracker so that it works in `run`; its wrappers of trackers' hooks do nothing here."""
        return as_called(super().ready(run))

    def test_a_whole_run_can_be_told(self, run: RunInfo) -> None:
        tracker = self.ready(run)
        tell_a_run(tracker, run)
        tracker.kdtool_close()

    def test_it_can_work_in_another_thread_than_it_was_built_in(self, run: RunInfo) -> None:
        tracker = self.ready(run)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(tell_a_run, tracker, run).result()
            thread.submit(tracker.kdtool_close).result()

    def test_every_hook_returns_nothing(self, run: RunInfo) -> None:
        tracker = self.ready(run)
        for name, arguments in _events(run):
            assert getattr(tracker, name)(*arguments) is None, name

    def test_odd_values_are_borne(self, run: RunInfo) -> None:
        tracker = self.ready(run)
        tracker.kdtool_run_start(self.make_run(run.folder, name=ODD[:60], stage=ODD, arm=ODD), ())
        for number in (float("nan"), float("inf"), -float("inf"), 0.0, 1e308, -1e-320):
            report = StepReport(0, 0, 0, number, number, number, number, {ODD: TermReport(number, number, number)})
            tracker.kdtool_step_end(run, report)
            measured = Measurement(ODD, ODD, ODD, number, 0, False, number, number, {ODD: ODD})
            tracker.kdtool_measurement(run, measured)
        tracker.kdtool_message(run, ODD)
        tracker.kdtool_message(run, "")
        tracker.kdtool_stage_start(run, 0, "")
        tracker.kdtool_stage_start(run, None, ODD)
        for done in (0, 10**15, 3, 3):
            tracker.kdtool_progress(run, done, None)
        tracker.kdtool_checkpoint(run, Path(ODD[:40].replace("\x00", "")), 10**9)
        tracker.kdtool_stage_end(run, 0.0, False)
        tracker.kdtool_run_end(run, "interrupted", None)
        tracker.kdtool_close()

    def test_it_shows_messages_if_it_declares_so(self, run: RunInfo, capfd: pytest.CaptureFixture[str]) -> None:
        tracker = self.ready(run)
        tracker.kdtool_run_start(run, ())
        tracker.kdtool_message(run, "a line for the user")
        tracker.kdtool_close()
        shown = "a line for the user" in "".join(capfd.readouterr())
        assert shown == tracker.shows_messages, "`shows_messages` is True if, and only if, the tracker prints messages"

    def test_events_may_come_without_those_before(self, run: RunInfo) -> None:
        for name, arguments in _events(run):
            tracker = self.ready(run)
            getattr(tracker, name)(*arguments)
            tracker.kdtool_close()
        tracker = self.ready(run)
        for name, arguments in reversed(_events(run)):
            getattr(tracker, name)(*arguments)
        tracker.kdtool_close()

    def test_it_can_tell_two_runs_one_after_the_other(self, run: RunInfo, tmp_path: Path) -> None:
        tracker = self.ready(run)
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            tell_a_run(tracker, self.make_run(tmp_path / name, name=name))
        tracker.kdtool_close()

    def test_it_goes_on_after_a_kill(self, run: RunInfo) -> None:
        settings = json.dumps({**self.settings, **self._prepare_once(run.folder)})
        task = [self.component.__module__, self.component.__qualname__, settings, str(run.folder)]
        killed = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _KILLED],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
        assert killed.returncode == 9, killed.stderr
        tracker = self.ready(run)
        tell_a_run(tracker, run)
        tracker.kdtool_close()

    def test_it_needs_no_network(self, run: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(*_: Any, **__: Any) -> None:
            raise OSError("the network is unreachable")

        for name in ("connect", "connect_ex"):
            monkeypatch.setattr(socket.socket, name, absent)
        monkeypatch.setattr(socket, "getaddrinfo", absent)
        for offline in (False, True):
            told = self.make_run(run.folder, offline=offline)
            tracker = self.ready(told)
            tell_a_run(tracker, told)
            tracker.kdtool_close()

    def test_it_writes_below_the_run_s_folder_alone(
        self, run: RunInfo, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        monkeypatch.chdir(elsewhere)
        tracker = self.ready(run)
        tell_a_run(tracker, run)
        tracker.kdtool_close()
        assert list(elsewhere.iterdir()) == []


def tell_a_run(tracker: Tracker, run: RunInfo, last: Callable[[], None] = lambda: None) -> None:
    """Tell a tracker a run from start to end; `last` is called before the end, for instance to die."""
    events, hooks = _events(run), as_called(tracker)
    for name, arguments in events[:-1]:
        getattr(hooks, name)(*arguments)
    last()
    name, arguments = events[-1]
    getattr(hooks, name)(*arguments)


def _events(run: RunInfo) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the calls of a typical run, in order."""
    terms = {"ce": TermReport(2.5, 1.0), "forward-kl": TermReport(0.7, 0.5, 0.01)}
    steps = [StepReport(n, 4, n * 64, n * 0.5, 3.0 / n, 1e-3, 0.5, terms) for n in range(1, 5)]
    training = [
        event
        for step in steps
        for event in (("kdtool_step_end", (run, step)), ("kdtool_progress", (run, step.step, step.steps)))
    ]
    measured = Measurement("perplexity", "student-seed0", "per token", 12.5, 64, False, 11.9, 13.2, {"split": "test"})
    planned = [StageRecord(name, "0" * 64, 1.5, name == "text", run.folder / name) for name in ("text", "rows")]
    return [
        ("kdtool_run_start", (run, planned)),
        ("kdtool_stage_end", (run, 0.01, True)),
        ("kdtool_stage_start", (run, None, "documents")),
        ("kdtool_progress", (run, 17, None)),
        ("kdtool_stage_end", (run, 1.5, False)),
        ("kdtool_stage_start", (run, 4, "steps")),
        *training,
        ("kdtool_checkpoint", (run, run.folder / "checkpoint-2", 2)),
        ("kdtool_message", (run, "a line for the user")),
        ("kdtool_stage_end", (run, 2.0, False)),
        ("kdtool_measurement", (run, measured)),
        ("kdtool_run_end", (run, "done", run.folder / "report.html")),
    ]
