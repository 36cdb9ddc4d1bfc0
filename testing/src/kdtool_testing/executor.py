"""The suite of executors: a stage is made elsewhere, and its failure, death and cancelling are noticed."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from kdtool import RunInfo, Submitted, Task

from kdtool_testing.component import ComponentConformance
from kdtool_testing.toy.stage import outcome

_SECONDS = 300.0
"""Seconds for a stage to begin or end: a scheduler may take a while."""


@dataclass(frozen=True)
class _Watched(Task):
    """A task that records which attributes are read."""

    module: str = "kdtool_testing.toy.stage"
    read: set[str] = field(default_factory=set, compare=False)

    def __getattribute__(self, name: str) -> Any:
        if name != "read":
            object.__getattribute__(self, "read").add(name)
        return object.__getattribute__(self, name)

    def __reduce__(self) -> Any:
        return Task, (self.name, self.title, self.folder, self.attempt, 0, 0, False, self.module)


class ExecutorConformance(ComponentConformance):
    """An executor makes each stage once, elsewhere, and notices if its process failed, died or was cancelled.

    Set `reserves_memory = False` if it cannot reserve memory. Processes must run on this machine, and see its files.
    """

    kind: ClassVar[str] = "executor"
    reserves_memory: ClassVar[bool] = True

    def test_a_stage_is_made_in_another_process(self, run: RunInfo) -> None:
        with self._open(run) as executor:
            submitted = self._submit(executor, run, "make")
            _wait_until(submitted.done, "the stage is made, but is not done")
            submitted.result()
            found = json.loads(outcome(run.folder, "make").read_text(encoding="utf-8"))
            assert found["pid"] != os.getpid(), "it was made in this process"
            assert found["attempt"] == "0"

    def test_submitting_does_not_wait(self, run: RunInfo) -> None:
        with self._open(run) as executor:
            submitted = self._submit(executor, run, "sleep")
            assert submitted.done() is False
            _cancel(submitted)

    def test_several_stages_are_made_each_once(self, run: RunInfo) -> None:
        with self._open(run) as executor:
            names = [f"make-{number}" for number in range(3)]
            submitted = [self._submit(executor, run, name) for name in names]
            for each in submitted:
                _wait_until(each.done, "a stage is never done")
                each.result()
            assert all(outcome(run.folder, name).is_file() for name in names)

    def test_the_reason_of_a_failure_is_raised(self, run: RunInfo) -> None:
        with self._open(run) as executor:
            submitted = self._submit(executor, run, "fail")
            _wait_until(submitted.done, "the stage failed, but is not done")
            assert _error_of(submitted) is not None, "the stage failed, but result() does not raise"

    def test_a_killed_process_is_noticed_and_the_stage_can_be_made_again(self, run: RunInfo) -> None:
        with self._open(run) as executor:
            submitted = self._submit(executor, run, "die")
            _wait_until(submitted.done, "its process was killed, but the stage is not done")
            assert _error_of(submitted) is not None, "its process was killed, but result() does not raise"
            again = self._submit(executor, run, "die", attempt="1")
            _wait_until(again.done, "after a process was killed, no stage is made any more")
            again.result()
            assert json.loads(outcome(run.folder, "die").read_text(encoding="utf-8"))["attempt"] == "1"

    def test_a_cancelled_stage_ends_with_its_process(self, run: RunInfo) -> None:
        with self._open(run) as executor:
            submitted, file = self._submit(executor, run, "sleep"), outcome(run.folder, "sleep")
            _wait_until(file.is_file, "the stage never began")
            _cancel(submitted)
            pid = int(json.loads(file.read_text(encoding="utf-8"))["pid"])
            _wait_until(lambda: not _is_alive(pid), f"it was cancelled, but its process {pid} works on")
            submitted.cancel()  # of one that is done

    def test_the_memory_of_a_stage_is_asked_for(self, run: RunInfo) -> None:
        with self._open(run) as executor:
            task = _Watched("make", "a stage", run.folder, memory=50_000_000)
            submitted: Submitted = executor.kdtool_submit(run, task)
            _wait_until(submitted.done, "a stage that needs 50 MB is never made")
            submitted.result()
            assert not self.reserves_memory or "memory" in task.read, "it does not pass on `task.memory`"

    @contextmanager
    def _open(self, run: RunInfo) -> Iterator[Any]:
        executor = self.ready(run)
        try:
            yield executor
        finally:
            executor.kdtool_close()

    def _submit(self, executor: Any, run: RunInfo, name: str, attempt: str = "0") -> Submitted:
        task = Task(name, f"the stage {name}", run.folder, attempt, module="kdtool_testing.toy.stage")
        submitted: Submitted = executor.kdtool_submit(run, task)
        for needed in ("done", "result", "cancel"):
            assert callable(getattr(submitted, needed, None)), f"what kdtool_submit returns has no {needed}()"
        return submitted


def _cancel(submitted: Submitted) -> None:
    submitted.cancel()
    _wait_until(submitted.done, "it was cancelled, but is not done")


def _wait_until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def _error_of(submitted: Submitted) -> Exception | None:
    try:
        submitted.result()
    except Exception as error:
        return error
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    if not status.exists():
        return not Path("/proc/self").exists()  # without /proc it is alive, else it ended meanwhile
    return status.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"  # a zombie has ended
