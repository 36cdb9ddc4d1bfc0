"""Commands that compute begin with an allocator that suits tensors: once, as the same process, with the same words."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")

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
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | settings
    done = subprocess.run(
        [sys.executable, "-c", SHOW, *command],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if str(list(command)) in line or line.startswith("inherited: ")]


def test_it_begins_again_once_as_the_same_process() -> None:
    first, second, inherited = begun("run", "--help")
    process, setting, words = first.split(" ", 2)
    assert setting == "None"
    assert second.split(" ", 2) == [process, "glibc.malloc.tcache_count=0", words]
    assert inherited == "inherited: None", "by processes that this one starts"


def test_a_command_that_does_not_compute_begins_once() -> None:
    assert len(begun("plugins", "--help")) == 2


@pytest.mark.parametrize("own", ["", "glibc.malloc.arena_max=2"])
def test_the_users_own_setting_stays(own: str) -> None:
    line, inherited = begun("run", "--help", GLIBC_TUNABLES=own)
    assert f" {own} [" in line
    assert inherited == f"inherited: {own}"
