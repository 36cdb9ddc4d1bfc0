"""Each worker is in its own memory group where systemd grants one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kdtool_programs import Module, Sandbox, Task
from kdtool_programs.commands import memory_group

PASSES = Task("task", Module("def f(): return 1", "assert f() == 1", ("f",)))


@pytest.fixture(autouse=True)
def ask_again() -> Iterator[None]:
    memory_group.cache_clear()
    yield
    memory_group.cache_clear()


def test_a_worker_is_started_in_the_group_that_systemd_grants(
    needs_bubblewrap: None, fake_program: Any, tmp_path: Path
) -> None:
    skip_options = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
    fake_program("systemd-run", f'echo "$@" >> {tmp_path}/calls; {skip_options}')
    with Sandbox() as sandbox:
        (verdict,) = sandbox.run([PASSES])
    assert verdict.status == "passed"
    asked, *started = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert asked.endswith("--scope --quiet --collect --property MemoryMax=2G --property MemorySwapMax=0 -- true")
    assert started
    assert ("--user" in asked) == (os.geteuid() != 0)
