"""Time limits scale with the speed of the machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kdtool_programs import Language, Module, Program, Sandbox, Step, Task, slowness
from kdtool_programs.tasks import _MOST

SLEEPS = Module("import time\ndef f(x):\n    time.sleep(1.0)\n    return x + 1\n", "assert f(1) == 2", ("f",))


@pytest.fixture
def measured() -> Iterator[None]:
    """Let the workload be measured anew."""
    slowness.cache_clear()
    yield
    slowness.cache_clear()


def test_a_slow_machine_is_measured_once_and_has_a_bound(measured: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtool_programs.tasks._REFERENCE", 1e-9)
    assert slowness() == _MOST
    monkeypatch.setattr("kdtool_programs.tasks._workload", lambda: pytest.fail("measured again"))
    assert slowness() == _MOST


def test_limits_of_modules_and_programs_grow_with_slowness(
    needs_bubblewrap: None, shell: Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program({}, (Step(("/bin/sh", "-c", "sleep 1"), "tests", 0.4),))
    tasks = [Task("module", SLEEPS, 0.4), Task("program", program, 0.4)]
    with Sandbox(languages=[shell]) as sandbox:
        monkeypatch.setattr("kdtool_programs.tasks.slowness", lambda: 1.0)
        short = {verdict.id: (verdict.status, verdict.reason) for verdict in sandbox.run(tasks)}
        monkeypatch.setattr("kdtool_programs.tasks.slowness", lambda: 50.0)
        long = {verdict.id: verdict.status for verdict in sandbox.run(tasks)}
    assert short == {
        "module": ("timed out", "no verdict within 0.4 s"),
        "program": ("timed out", "tests: more than 0.4 s"),
    }
    assert long == {"module": "passed", "program": "passed"}
