"""C++, compiled by GCC."""

from __future__ import annotations

from kdtool_sandbox._language import Language, locate
from kdtool_sandbox._task import ENDING, Program, Step

__all__ = ["Cpp"]

_COMPILING = 30.0
_END = f"""\
#include <cstdio>
#include <unistd.h>
extern "C" int __real_main(int, char **);
extern "C" int __wrap_main(int count, char **arguments) {{
    int code = __real_main(count, arguments);
    std::fflush(nullptr);
    if (code == 0) write(2, "{ENDING}", sizeof "{ENDING}" - 1);
    return code;
}}
"""
"""The linker calls this in place of `main`."""


class Cpp(Language):
    """C++17. It can be parsed only with what it includes, so its syntax check is the compiler's."""

    name = "cpp"
    suffixes = (".cpp", ".cc", ".cxx", ".hpp", ".hh")
    stops = ("\n}\n", "\nint main", "\n#include", "\n//", "\n```")
    programs = ("g++",)
    trial = "int main() {}"

    def parse(self, source: str) -> Program:
        command = (str(locate("g++")), "-std=c++17", "-fsyntax-only", "program.cpp")
        return Program({"program.cpp": source}, (Step(command, "syntax", _COMPILING),))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        build = (str(locate("g++")), "-std=c++17", "-w", "-Wl,--wrap=main", "program.cpp", "end.cpp", "-o", "program")
        tested = Step(("/tmp/program",), "tests", ending=ENDING)  # noqa: S108 (the sandbox's own)
        files = {"program.cpp": f"{source}\n{tests}\n", "end.cpp": _END}
        return Program(files, (Step(build, "compiler", _COMPILING), tested))
