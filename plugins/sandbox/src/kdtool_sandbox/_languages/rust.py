"""Rust, compiled by rustc alone: programs that need crates do not build."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from kdtool_sandbox._language import Language, found
from kdtool_sandbox._task import Program, Step

__all__ = ["Rust"]

_COMPILING = 30.0


class Rust(Language):
    """Rust, edition 2021. Functions of the tests marked `#[test]` are run where there are some, `main` otherwise."""

    name = "rust"
    suffixes = (".rs",)
    stops = ("\n}\n", "\nfn ", "\nstruct ", "\nimpl ", "\n//", "\n```")
    programs = ("rustc", "gcc")

    def folders(self) -> tuple[Path, ...]:
        return (_toolchain(),)

    def parse(self, source: str) -> Program:
        """Parse without resolving names: what a condition leaves out is only parsed."""
        wrapped = f"#[cfg(any())]\nmod source {{\n{source}\n}}\n"
        command = (*self._compiler(), "--crate-type=lib", "--emit=metadata", "program.rs")
        return Program({"program.rs": wrapped}, (Step(command, "syntax", _COMPILING),))

    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Program:
        text = f"{source}\n{tests}\n"
        kind = ("--test",) if "#[test]" in tests else ()
        build = (*self._compiler(), *kind, "-o", "program", "program.rs")
        steps = (Step(build, "compiler", _COMPILING), Step(("/tmp/program",), "tests"))  # noqa: S108 (the sandbox's own)
        return Program({"program.rs": text}, steps)

    def _compiler(self) -> tuple[str, ...]:
        linker = f"linker={found('gcc')}"
        return (str(_toolchain() / "bin" / "rustc"), "--edition=2021", "--cap-lints=allow", "-C", linker)


@cache
def _toolchain() -> Path:
    """Return the folder of the toolchain that rustup's `rustc` chooses."""
    command = [str(found("rustc").with_name("rustc")), "--print", "sysroot"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 (rustc itself)
    return Path(said.stdout.strip()).resolve()
