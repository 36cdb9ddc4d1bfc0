"""Rust, compiled by rustc without cargo: programs that need crates do not build."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

from kdtool_programs._errors import SandboxError
from kdtool_programs._language import Language, locate
from kdtool_programs._task import ENDING, Program, Step

__all__ = ["Rust"]

_COMPILING = 30.0
_MAIN = re.compile(r"^((?:pub )?)fn main\s*\(\s*\)", re.MULTILINE)
_END = f"""\
fn main() -> ::std::process::ExitCode {{
    let code = ::std::process::Termination::report(tests_of_main());
    ::std::eprint!("{ENDING}");
    code
}}
"""
_END_OF_TESTS = """\
#[no_mangle]
extern "C" fn end_of_the_tests() {}
"""
_END_OF_RUNNER = f"""\
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
_NO_ATTRIBUTE = "const _: () = ();\n"
"""Absorbs an attribute at the end of a program, which could remove the first test."""
_RUNNER = ("--test", "-C", "link-args=end.c -Wl,--wrap=main")
_MACROS = (
    "assert", "assert_eq", "assert_ne", "debug_assert", "debug_assert_eq", "debug_assert_ne", "format", "matches", "panic",
    "todo", "unimplemented", "unreachable", "vec",
)  # fmt: skip
_LITERAL = r"""\bb?r(#*)"[\s\S]*?"\1|"(?:[^"\\]|\\.)*"|'(?:[^'\\\n]|\\[^\n][^'\n]*)'|//.*|/\*[\s\S]*?\*/"""
_USE = re.compile(rf"{_LITERAL}|(?<![\w:])(?P<macro>{'|'.join(_MACROS)})!(?!=)")


class Rust(Language):
    """Rust, edition 2021. Functions of the tests marked `#[test]` are run if there are some, `main` otherwise.

    Tests find macros such as `assert!` in the standard library, regardless of the macros that a program declares.
    """

    name = "rust"
    suffixes = (".rs",)
    stops = ("\n}\n", "\nfn ", "\nstruct ", "\nimpl ", "\n//", "\n```")
    programs = ("rustc", "gcc")
    trial = "fn main() {}"

    def folders(self) -> tuple[Path, ...]:
        return (self._toolchain(),)

    def parse(self, source: str) -> Program:
        """Parse without resolving names: what a condition leaves out is only parsed."""
        wrapped = f"#[cfg(any())]\nmod source {{\n{source}\n}}\n"
        command = (*self._compiler(), "--crate-type=lib", "--emit=metadata", "program.rs")
        return Program({"program.rs": wrapped}, (Step(command, "syntax", _COMPILING),))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        text = f"{source}\n{_NO_ATTRIBUTE}{_qualify(tests)}\n"
        build = (*self._compiler(), "-o", "program", "program.rs")
        if "#[test]" in tests:
            files = {"program.rs": text + _END_OF_TESTS, "end.c": _END_OF_RUNNER}
            build += _RUNNER
        else:
            files = {"program.rs": _MAIN.sub(r"\1fn tests_of_main()", text) + _END}
        tested = Step(("/tmp/program",), "tests", ending=ENDING)  # noqa: S108 (the sandbox's own)
        return Program(files, (Step(build, "compiler", _COMPILING), tested))

    def _compiler(self) -> tuple[str, ...]:
        linker = f"linker={locate('gcc')}"
        return (str(self._toolchain() / "bin" / "rustc"), "--edition=2021", "--cap-lints=allow", "-C", linker)

    def _toolchain(self) -> Path:
        return _toolchain_of(str(locate("rustc").with_name("rustc")))


def _qualify(tests: str) -> str:
    """Return the tests with macros such as `assert!` written `::std::assert!`."""
    return _USE.sub(lambda match: f"::std::{match[0]}" if match["macro"] else match[0], tests)


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
