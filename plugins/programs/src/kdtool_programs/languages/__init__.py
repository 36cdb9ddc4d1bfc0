"""Interface of programming languages: how to run source.

A language is a plugin of this library: a class that extends `Language`, named in the entry-point group
`kdtool_programs.languages`. The modules next to this one contain those that come with the library. To add another one,
write a package; nothing changes here.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import kdtool

from kdtool_programs.tasks import Module, Program, SandboxError

GROUP = "kdtool_programs.languages"


class Language(ABC):
    """One programming language."""

    name: ClassVar[str]
    """As the entry point calls it, in lower case."""
    programs: ClassVar[tuple[str, ...]] = ()
    """Programs that must be installed."""
    trial: ClassVar[str] = ""
    """A program that does nothing and passes without tests: `Sandbox` runs it before others in the language."""

    def missing(self) -> tuple[str, ...]:
        """Return the programs that are needed and not found."""
        return tuple(program for program in self.programs if shutil.which(program) is None)

    def folders(self) -> tuple[Path, ...]:
        """Return folders that the toolchain needs, for `Sandbox`, except `bin`, `lib`, `libexec` and `include` of /usr.

        Called only if nothing is missing. They are parts of the folders that its programs were installed to, if these
        contain nothing else. Folders of installed packages in them, such as `node_modules`, are not shown.
        """
        return tuple(dict.fromkeys(part for program in self.programs for part in _own_parts(locate(program))))

    @abstractmethod
    def run(self, source: str, tests: str, names: tuple[str, ...] = (), helpers: str = "") -> Module | Program:
        """Return work that passes if, and only if, the tests do. Names and helpers are as in `Module`."""


def installed_languages() -> list[str]:
    """Return the names of all installed languages; nothing is imported."""
    return kdtool.list_plugins(GROUP)


def language(name: str) -> Language:
    """Return the language of that name, with its toolchain.

    Raises:
        UsageError: no installed package brings it.
        PluginError: several do, or it cannot be imported or constructed.
        SandboxError: its toolchain is not on this machine.
    """
    made = kdtool.call_plugin(GROUP, name)
    if not isinstance(made, Language):
        raise kdtool.PluginError(f"language {name!r} is not a kdtool_programs.Language, but {type(made).__name__}")
    if missing := made.missing():
        raise SandboxError(
            f"programs in {name} cannot be run: {' and '.join(missing)} not found; install the toolchain"
        )
    return made


def locate(program: str) -> Path:
    """Return the real path of a toolchain's program, resolving links that do not exist inside the sandbox.

    Raises:
        SandboxError: the program is missing.
    """
    path = shutil.which(program)
    if path is None:
        raise SandboxError(f"{program} not found; install it")
    return Path(path).resolve()


_PARTS_OF_AN_INSTALLATION = ("bin", "lib", "lib64", "libexec", "include")


def _own_parts(program: Path) -> list[Path]:
    """Return the parts of the folder that a program was installed to; none of /usr, nor of one with a user's other things.

    An installation has `bin`, and `lib` or `include` next to it.
    """
    folder, home = program.parent.parent, Path.home()
    everybodys = folder.is_relative_to("/usr") or home.is_relative_to(folder) or folder == home / ".local"
    installed = program.parent.name == "bin" and any((folder / part).is_dir() for part in ("lib", "include"))
    return (
        [folder / part for part in _PARTS_OF_AN_INSTALLATION if (folder / part).is_dir()]
        if installed and not everybodys
        else []
    )
