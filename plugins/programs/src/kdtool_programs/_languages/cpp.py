"""C++, compiled by GCC."""

from __future__ import annotations

from kdtool_programs._language import Language, locate
from kdtool_programs._task import ENDING, Program, Step

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
_KEYWORDS = """
alignas alignof asm auto bool break case catch char char16_t char32_t class const const_cast constexpr continue decltype
default delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline int long
mutable namespace new noexcept nullptr operator private protected public register reinterpret_cast return short signed
sizeof static static_assert static_cast struct switch template this thread_local throw true try typedef typeid typename
union unsigned using virtual void volatile wchar_t while
"""
_RESTORE = f"""
#undef NDEBUG
#ifdef assert
#undef assert
#include <cassert>
#endif
{"".join(f"#undef {name}{chr(10)}" for name in ("main", *_KEYWORDS.split()))}"""
"""Stands between a program and its tests: these get the usual `assert`, `main` and keywords."""


class Cpp(Language):
    """C++17. Parsing needs the included headers, so the compiler checks the syntax.

    Macros of a program apply to its tests, except those called `NDEBUG`, `assert`, `main` or like a keyword.
    """

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
        files = {"program.cpp": f"{source}\n{_RESTORE}{tests}\n", "end.cpp": _END}
        return Program(files, (Step(build, "compiler", _COMPILING), tested))
