"""Languages that are compiled to an executable: C++ by GCC, Go by its own toolchain, Rust by rustc without cargo.

Go and Rust programs that need modules or crates do not build.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

from kdtool_programs.languages import Language, locate
from kdtool_programs.tasks import ENDING, Program, SandboxError, Step

_CPP_COMPILING = 30.0
_CPP_END = f"""\
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
_CPP_RESTORE = f"""
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
    programs = ("g++",)
    trial = "int main() {}"

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        build = (str(locate("g++")), "-std=c++17", "-w", "-Wl,--wrap=main", "program.cpp", "end.cpp", "-o", "program")
        tested = Step(("/tmp/program",), "tests", ending=ENDING)  # noqa: S108 (the sandbox's own)
        files = {"program.cpp": f"{source}\n{_CPP_RESTORE}{tests}\n", "end.cpp": _CPP_END}
        return Program(files, (Step(build, "compiler", _CPP_COMPILING), tested))


_GO_COMPILING = 60.0
_GO_MAIN = re.compile(r"^func main\(\)", re.MULTILINE)
_GO_PACKAGE = re.compile(r"^package (\w+)", re.MULTILINE)
_BUILT_IN = """
const _ = true && !false && len("") == cap([0]int{})

var _ = map[bool]int{true: 0, 1 > 1: 0}
var _ = map[bool]int{false: 0, 1 == 1: 0}

func _() int { panic(nil) }
"""
"""Does not compile if the program redeclares one of these names, which its tests would see."""
_GO_END = f"""\
import "os"
{_BUILT_IN}
func main() {{
	testsOfMain()
	os.Stderr.WriteString("{ENDING}")
}}
"""
_GO_END_OF_TESTS = f"""\
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
    programs = ("go",)
    trial = "package main\nfunc main() {}"

    def folders(self) -> tuple[Path, ...]:
        """Return the toolchain's folder, and the parts of it that a distribution keeps elsewhere."""
        home = locate("go").parent.parent
        return tuple(dict.fromkeys(part.resolve() for part in (home, home / "src", home / "pkg" / "include")))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        text = f"{source}\n{tests}\n"
        go, testing = str(locate("go")), "func Test" in tests
        package = _GO_PACKAGE.search(text)
        clause = f"package {package[1] if package else 'main'}\n"
        if testing:
            files = {"program_test.go": text, "end_test.go": clause + _GO_END_OF_TESTS}
        else:
            files = {"program.go": _GO_MAIN.sub("func testsOfMain()", text), "end.go": clause + _GO_END}
        # Files are named because Go ignores a go.mod in the folder for temporary files, where the sandbox works.
        build = (go, *(("test", "-c") if testing else ("build",)), "-o", "program", *files)
        tested = Step(("/tmp/program",), "tests", ending=ENDING)  # noqa: S108 (the sandbox's own)
        return Program(files, (Step(build, "compiler", _GO_COMPILING), tested))


_RUST_COMPILING = 30.0
_RUST_MAIN = re.compile(r"^((?:pub )?)fn main\s*\(\s*\)", re.MULTILINE)
_RUST_END = f"""\
fn main() -> ::std::process::ExitCode {{
    let code = ::std::process::Termination::report(tests_of_main());
    ::std::eprint!("{ENDING}");
    code
}}
"""
_RUST_END_OF_TESTS = """\
#[no_mangle]
extern "C" fn end_of_the_tests() {}
"""
_RUST_END_OF_RUNNER = f"""\
#include <unistd.h>
int __real_main(int, char **);
void end_of_the_tests(void);
int __wrap_main(int count, char **arguments) {{
    int code = __real_main(count, arguments);
    end_of_the_tests();
    if (code == 0) write(2, "{ENDING}", sizeof "{ENDING}" - 1);
    return code;
}}
"""
"""The linker calls this in place of the test runner's `main`. It does not link if an attribute removed the tests."""
_RUST_NO_ATTRIBUTE = "const _: () = ();\n"
"""Absorbs an attribute at the end of a program, which could remove the first test."""
_RUST_RUNNER = ("--test", "-C", "link-args=end.c -Wl,--wrap=main")
_MACROS = (
    "assert", "assert_eq", "assert_ne", "debug_assert", "debug_assert_eq", "debug_assert_ne", "format", "matches", "panic",
    "todo", "unimplemented", "unreachable", "vec",
)  # fmt: skip
_LITERAL = r"""\bb?r(#*)"[\s\S]*?"\1|"(?:[^"\\]|\\.)*"|'(?:[^'\\\n]|\\[^\n][^'\n]*)'|//.*|/\*[\s\S]*?\*/"""
_RUST_USE = re.compile(rf"{_LITERAL}|(?<![\w:])(?P<macro>{'|'.join(_MACROS)})!(?!=)")


class Rust(Language):
    """Rust, edition 2021. Functions of the tests marked `#[test]` are run if there are some, `main` otherwise.

    Tests find macros such as `assert!` in the standard library, regardless of the macros that a program declares.
    """

    name = "rust"
    programs = ("rustc", "gcc")
    trial = "fn main() {}"

    def folders(self) -> tuple[Path, ...]:
        return (self._toolchain(),)

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        # Macros such as `assert!` are written `::std::assert!`.
        qualified = _RUST_USE.sub(lambda match: f"::std::{match[0]}" if match["macro"] else match[0], tests)
        text = f"{source}\n{_RUST_NO_ATTRIBUTE}{qualified}\n"
        build = (*self._compiler(), "-o", "program", "program.rs")
        if "#[test]" in tests:
            files = {"program.rs": text + _RUST_END_OF_TESTS, "end.c": _RUST_END_OF_RUNNER}
            build += _RUST_RUNNER
        else:
            files = {"program.rs": _RUST_MAIN.sub(r"\1fn tests_of_main()", text) + _RUST_END}
        tested = Step(("/tmp/program",), "tests", ending=ENDING)  # noqa: S108 (the sandbox's own)
        return Program(files, (Step(build, "compiler", _RUST_COMPILING), tested))

    def _compiler(self) -> tuple[str, ...]:
        linker = f"linker={locate('gcc')}"
        return (str(self._toolchain() / "bin" / "rustc"), "--edition=2021", "--cap-lints=allow", "-C", linker)

    def _toolchain(self) -> Path:
        return _toolchain_of(str(locate("rustc").with_name("rustc")))


@cache
def _toolchain_of(rustc: str) -> Path:
    """Return the folder of the toolchain that rustup's `rustc` chooses.

    Raises:
        SandboxError: it chooses none.
    """
    try:
        completed = subprocess.run([rustc, "--print", "sysroot"], capture_output=True, text=True, check=True)  # noqa: S603 (rustc)
    except (OSError, subprocess.CalledProcessError) as error:
        why = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        raise SandboxError(f"programs in rust cannot be run: {rustc} has no toolchain: {why}") from error
    return Path(completed.stdout.strip()).resolve()
