"""Go, with its own toolchain; programs that need modules do not build."""

from __future__ import annotations

from pathlib import Path

from kdtool_sandbox._language import Language, found
from kdtool_sandbox._task import Program, Step

__all__ = ["Go"]

_COMPILING = 60.0


class Go(Language):
    """Go. Functions of the tests called `Test…` are run where there are some, `main` otherwise."""

    name = "go"
    suffixes = (".go",)
    stops = ("\n}\n", "\nfunc ", "\nstruct", "\n//", "\n```")
    programs = ("go", "gofmt")
    trial = "package main\nfunc main() {}"

    def folders(self) -> tuple[Path, ...]:
        return (found("go").parent.parent,)

    def parse(self, source: str) -> Program:
        return Program({"program.go": source}, (Step((str(found("gofmt")), "-e", "program.go"), "syntax"),))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        text = f"{source}\n{tests}\n"
        go, testing = str(found("go")), "func Test" in tests
        name = "program_test.go" if testing else "program.go"
        # The file is named, for Go ignores a go.mod in the folder for temporary files, where the sandbox works.
        build = (go, *(("test", "-c") if testing else ("build",)), "-o", "program", name)
        steps = (Step(build, "compiler", _COMPILING), Step(("/tmp/program",), "tests"))  # noqa: S108 (the sandbox's own)
        return Program({name: text}, steps)
