"""Each worker is in its own memory group where systemd grants one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kdtool_programs import Module, Sandbox, Task
from kdtool_programs.commands import memory_group

PASSES = Task("task", Module("def f(): return 1", "assert f() == 1", ("f",)))


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder first on the PATH for a program called systemd-run."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    memory_group.cache_clear()
    yield tmp_path
    memory_group.cache_clear()


def _write(folder: Path, script: str) -> None:
    program = folder / "systemd-run"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


def test_a_worker_is_started_in_the_group_that_systemd_grants(needs_bubblewrap: None, systemd: Path) -> None:
    skip_options = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
    _write(systemd, f'echo "$@" >> {systemd}/calls; {skip_options}')
    with Sandbox() as sandbox:
        (verdict,) = sandbox.run([PASSES])
    assert verdict.status == "passed"
    asked, *started = (systemd / "calls").read_text(encoding="utf-8").splitlines()
    assert asked.endswith("--scope --quiet --collect --property MemoryMax=2G --property MemorySwapMax=0 -- true")
    assert started
    assert ("--user" in asked) == (os.geteuid() != 0)


def test_where_systemd_grants_none_a_worker_starts_without(needs_bubblewrap: None, systemd: Path) -> None:
    _write(systemd, "exit 1")
    assert memory_group() == ()
    with Sandbox() as sandbox:
        (verdict,) = sandbox.run([PASSES])
    assert verdict.status == "passed"
