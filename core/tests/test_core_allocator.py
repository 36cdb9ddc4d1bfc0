"""The command line begins with the allocator told what suits tensors: once, as the same process, with the same words."""

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
begin()
"""


def begun(**settings: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"} | settings
    done = subprocess.run(
        [sys.executable, "-c", SHOW, "plugins", "list", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if "plugins" in line and "list" in line]


def test_it_begins_again_once_as_the_same_process() -> None:
    first, second = begun()
    process, setting, words = first.split(" ", 2)
    assert setting == "None"
    assert second.split(" ", 2) == [process, "glibc.malloc.tcache_count=0", words]


@pytest.mark.parametrize("own", ["", "glibc.malloc.arena_max=2"])
def test_the_users_own_setting_stays(own: str) -> None:
    (line,) = begun(GLIBC_TUNABLES=own)
    assert f" {own} [" in line
