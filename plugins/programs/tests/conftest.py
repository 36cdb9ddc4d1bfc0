"""Sandboxes, a language of another package, programs that stand in for others, and descendants of a process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kdtool_programs import Language, Module, Program, Sandbox, Step, Task, Verdict

Judge = Callable[..., Verdict]
Fake = Callable[..., None]
Descendants = Callable[..., set[int]]


class Shell(Language):
    """A language of another package, for commands of /usr."""

    name = "shell"
    programs = ("sh",)

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


@pytest.fixture
def run_steps(needs_bubblewrap: None, shell: Language) -> Judge:
    """Run one program of some steps, each a command of /bin/sh or a step, with files."""

    def run(*steps: str | Step, seconds: float = 30.0, memory: int = 2**29, **files: str) -> Verdict:
        commands = [Step(("/bin/sh", "-c", step), "tests") if isinstance(step, str) else step for step in steps]
        sources = {name.replace("_", "."): text for name, text in files.items()}
        with Sandbox(languages=[shell]) as sandbox:
            (verdict,) = sandbox.run([Task("program", Program(sources, tuple(commands)), seconds, memory)])
        return verdict

    return run


@pytest.fixture
def fake_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Put a shell script in the place of a program: first on the PATH."""

    def write(name: str, script: str, folder: Path = tmp_path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return write


@pytest.fixture(scope="session")
def descendants() -> Descendants:
    """Return a function that finds all processes below one, by default the one of these tests."""

    def find(process: int = 0) -> set[int]:
        found, waiting = set[int](), [process or os.getpid()]
        while waiting:
            for path in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
                waiting += map(int, path.read_text().split())
            found |= set(waiting)
        return found

    return find
