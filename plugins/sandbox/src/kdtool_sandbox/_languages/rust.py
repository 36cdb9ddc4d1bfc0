"""Rust, compiled by rustc alone: programs that need crates do not build."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import kdtool

from kdtool_sandbox._language import Language, locate
from kdtool_sandbox._task import ENDING, Program, Step

__all__ = ["Rust"]

_COMPILING = 30.0
_MAIN = re.compile(r"^((?:pub )?)fn main\s*\(\s*\)", re.MULTILINE)
_END = f"""\
fn main() -> std::process::ExitCode {{
    let code = std::process::Termination::report(tests_of_main());
    eprint!("{ENDING}");
    code
}}
"""
_END_OF_TESTS = "test result: ok."
"""Rust's test runner prints this when all tests have passed."""


class Rust(Language):
    """Rust, edition 2021. Functions of the tests marked `#[test]` are run where there are some, `main` otherwise."""

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
        text = f"{source}\n{tests}\n"
        testing = "#[test]" in tests
        if not testing:
            text = _MAIN.sub(r"\1fn tests_of_main()", text) + _END
        build = (*self._compiler(), *(("--test",) if testing else ()), "-o", "program", "program.rs")
        ending = _END_OF_TESTS if testing else ENDING
        tested = Step(("/tmp/program",), "tests", ending=ending)  # noqa: S108 (the sandbox's own)
        return Program({"program.rs": text}, (Step(build, "compiler", _COMPILING), tested))

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
        said = subprocess.run([rustc, "--print", "sysroot"], capture_output=True, text=True, check=True)  # noqa: S603 (rustc)
    except (OSError, subprocess.CalledProcessError) as error:
        why = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        raise kdtool.SandboxError(f"programs in rust cannot be run: {rustc} has no toolchain: {why}") from error
    return Path(said.stdout.strip()).resolve()
