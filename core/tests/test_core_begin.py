"""The process of the command line, prepared for its command: its allocator and its threads."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from kdtool import __main__

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
SHOW = """
import os, sys
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], flush=True)
from kdtool.__main__ import begin
try:
    begin()
finally:
    print("inherited:", os.environ.get("GLIBC_TUNABLES"), flush=True)
"""


def begun(*command: str, **settings: str) -> list[str]:
    shown = [sys.executable, "-c", SHOW, *command]
    done = subprocess.run(shown, env=ENVIRONMENT | settings, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if str(list(command)) in line or line.startswith("inherited: ")]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_commands_that_compute_begin_again_once_with_an_allocator_for_tensors() -> None:
    first, second, inherited = begun("run", "--help")
    process, setting, words = first.split(" ", 2)
    assert setting == "None"
    assert second.split(" ", 2) == [process, "glibc.malloc.tcache_count=0", words], "the same process"
    assert inherited == "inherited: None", "by processes that this one starts"
    assert len(begun("plugins", "--help")) == 2, "a command that does not compute begins once"
    for own in ("", "glibc.malloc.arena_max=2"):
        line, inherited = begun("run", "--help", GLIBC_TUNABLES=own)
        assert f" {own} [" in line, "the user's own setting stays"
        assert inherited == f"inherited: {own}"


@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (7.9, False), (8.1, True)])
def test_threads_sleep_while_they_wait_on_a_busy_machine(
    load: float, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that just ended leaves a load of one per core, which is not other work."""
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    environment: dict[str, str] = {}
    __main__.wait_passively_if_busy(environment)
    assert (environment.get("OMP_WAIT_POLICY") == "PASSIVE") == busy
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):  # a user's setting stays
        environment = {name: "mine"}
        __main__.wait_passively_if_busy(environment)
        assert environment == {name: "mine"}
