"""Go, with its own toolchain; programs that need modules do not build."""

from __future__ import annotations

import re
from pathlib import Path

from kdtool_programs._language import Language, locate
from kdtool_programs._task import ENDING, Program, Step

__all__ = ["Go"]

_COMPILING = 60.0
_MAIN = re.compile(r"^func main\(\)", re.MULTILINE)
_PACKAGE = re.compile(r"^package (\w+)", re.MULTILINE)
_BUILT_IN = """
const _ = true && !false && len("") == cap([0]int{})

var _ = map[bool]int{true: 0, 1 > 1: 0}
var _ = map[bool]int{false: 0, 1 == 1: 0}

func _() int { panic(nil) }
"""
"""Does not compile if the program redeclares one of these names, which its tests would see."""
_END = f"""\
import "os"
{_BUILT_IN}
func main() {{
	testsOfMain()
	os.Stderr.WriteString("{ENDING}")
}}
"""
_END_OF_TESTS = f"""\
import (
	"flag"
	"os"
	"testing"
)
{_BUILT_IN}
func TestMain(all *testing.M) {{
	os.Args = os.Args[:1]
	flag.Parse()
	flag.VisitAll(func(each *flag.Flag) {{ each.Value.Set(each.DefValue) }})
	code := all.Run()
	if code == 0 {{
		os.Stderr.WriteString("{ENDING}")
	}}
	os.Exit(code)
}}
"""


class Go(Language):
    """Go. Functions of the tests called `Test…` are run if there are some, `main` otherwise."""

    name = "go"
    suffixes = (".go",)
    stops = ("\n}\n", "\nfunc ", "\nstruct", "\n//", "\n```")
    programs = ("go", "gofmt")
    trial = "package main\nfunc main() {}"

    def folders(self) -> tuple[Path, ...]:
        """Return the toolchain's folder, and the parts of it that a distribution keeps elsewhere."""
        home = locate("go").parent.parent
        return tuple(dict.fromkeys(part.resolve() for part in (home, home / "src", home / "pkg" / "include")))

    def parse(self, source: str) -> Program:
        return Program({"program.go": source}, (Step((str(locate("gofmt")), "-e", "program.go"), "syntax"),))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        text = f"{source}\n{tests}\n"
        go, testing = str(locate("go")), "func Test" in tests
        package = _PACKAGE.search(text)
        clause = f"package {package[1] if package else 'main'}\n"
        if testing:
            files = {"program_test.go": text, "end_test.go": clause + _END_OF_TESTS}
        else:
            files = {"program.go": _MAIN.sub("func testsOfMain()", text), "end.go": clause + _END}
        # Files are named because Go ignores a go.mod in the folder for temporary files, where the sandbox works.
        build = (go, *(("test", "-c") if testing else ("build",)), "-o", "program", *files)
        tested = Step(("/tmp/program",), "tests", ending=ENDING)  # noqa: S108 (the sandbox's own)
        return Program(files, (Step(build, "compiler", _COMPILING), tested))
