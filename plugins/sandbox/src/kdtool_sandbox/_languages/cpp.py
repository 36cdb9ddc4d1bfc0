"""C++, compiled by GCC."""

from __future__ import annotations

from kdtool_sandbox._language import Language, found
from kdtool_sandbox._task import Program, Step

__all__ = ["Cpp"]

_COMPILING = 30.0


class Cpp(Language):
    """C++17. It can be parsed only with what it includes, so its syntax check is the compiler's."""

    name = "cpp"
    suffixes = (".cpp", ".cc", ".cxx", ".hpp", ".hh")
    stops = ("\n}\n", "\nint main", "\n#include", "\n//", "\n```")
    programs = ("g++",)
    trial = "int main() {}"

    def parse(self, source: str) -> Program:
        command = (str(found("g++")), "-std=c++17", "-fsyntax-only", "program.cpp")
        return Program({"program.cpp": source}, (Step(command, "syntax", _COMPILING),))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        build = (str(found("g++")), "-std=c++17", "-w", "program.cpp", "-o", "program")
        steps = (Step(build, "compiler", _COMPILING), Step(("/tmp/program",), "tests"))  # noqa: S108 (the sandbox's own)
        return Program({"program.cpp": f"{source}\n{tests}\n"}, steps)
