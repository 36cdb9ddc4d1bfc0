"""The process of the command line, prepared for its command: its allocator, its threads, its first words."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys

import kdtool._cli
import pytest
from kdtool import __main__
from kdtool._text.terminal import print_first_line

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


@pytest.mark.parametrize(("command", "collects"), [("check", False), ("run", True)])
def test_garbage_is_collected_but_by_a_check(command: str, collects: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    monkeypatch.setattr(__main__, "begin_again_with_joined_blocks", lambda: None)
    monkeypatch.setattr(__main__, "wait_passively_if_busy", lambda _: None)
    monkeypatch.setattr(kdtool._cli, "main", lambda: found.append(gc.isenabled()))
    monkeypatch.setattr(sys, "argv", ["kdtool", command, "recipe.yaml"])
    try:
        __main__.begin()
    finally:
        gc.enable()
    assert found == [collects]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "a.yaml"], "reading the recipe and its plugins …"),
        (["check", "a.yaml"], "reading the recipe and its plugins, and estimating the run …"),
        (["eval", "--recipe", "a.yaml"], "reading plugins …"),
    ],
)
def test_long_commands_say_at_once_what_they_do(arguments: list[str], line: str) -> None:
    code = (
        "import os, sys; from kdtool._cli import call; from kdtool._text import terminal\n"
        "sys.stderr.isatty = lambda: True\n"
        "def show(text):\n"
        "    assert not {'pydantic', 'yaml', 'pluggy', 'torch'} & set(sys.modules), 'something heavy was imported first'\n"
        "    os._exit(not os.write(2, text.encode()))\n"
        "terminal.print_line = show\n"
        "import click; click.echo = lambda text, **_: show(text.removeprefix('\\r\\x1b[2K'))\n"
        f"call({arguments!r})"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8")
    assert (told.stdout, told.stderr) == ("", line)


def test_a_process_that_begins_again_has_not_imported_the_command_line() -> None:
    code = (
        "import os, sys\n"
        "os.execv = lambda *_: os._exit('kdtool._cli.command_line' in sys.modules)\n"
        "from kdtool.__main__ import begin; begin()"
    )
    assert subprocess.run([sys.executable, "-c", code, "run", "--help"], check=False, env=ENVIRONMENT).returncode == 0


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


def test_in_a_terminal_the_first_of_several_processes_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    print_first_line("in a log")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        print_first_line(f"of rank {rank}")
    assert capsys.readouterr().err == "of rank 0\n"
