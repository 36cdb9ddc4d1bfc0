"""A sandbox for the tests of a file, and what says that there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from kdtool_programs import Language, Module, Program, Sandbox, Step, Task, Verdict

Judge = Callable[..., Verdict]


class Shell(Language):
    """A language of another package, for commands of /usr."""

    name = "shell"
    suffixes = (".sh",)
    stops = ("\n\n",)
    programs = ("sh",)

    def parse(self, source: str) -> Program:
        return Program({"program.sh": source}, (Step(("/bin/sh", "-n", "program.sh"), "syntax"),))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        return Program({"program.sh": f"{source}\n{tests}\n"}, (Step(("/bin/sh", "program.sh"), "tests"),))


@pytest.fixture(scope="session")
def needs_bubblewrap() -> None:
    """Skip where bubblewrap is not installed, and fail there if it should be."""
    if shutil.which("bwrap") is None:
        why = "bubblewrap is not installed: no generated program was run"
        assert not os.environ.get("KDTOOL_NEEDS_SANDBOX"), f"{why}, and KDTOOL_NEEDS_SANDBOX is set"
        pytest.skip(why)


@pytest.fixture(scope="module")
def sandbox(needs_bubblewrap: None) -> Iterator[Sandbox]:
    """One worker: what a task leaves behind, the next one finds."""
    with Sandbox() as made:
        yield made


@pytest.fixture(scope="module")
def judge(sandbox: Sandbox) -> Judge:
    """Run one module against tests; `f` is its entry point."""

    def run(source: str, tests: str, *, helpers: str = "", seconds: float = 30.0, memory: int = 2**29) -> Verdict:
        module = Module(source, tests, ("f",), helpers)
        (verdict,) = sandbox.run([Task("task", module, seconds, memory)])
        return verdict

    return run


@pytest.fixture
def shell() -> Language:
    """Return a language with which a sandbox shows the programs of /usr, compilers among them."""
    return Shell()
