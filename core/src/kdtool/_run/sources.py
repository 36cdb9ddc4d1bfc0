"""The code that a component runs, hashed: its module, and the modules that it imports of its package and of libraries.

Imports are read from the sources and followed through the component's package and through the libraries of kdtool that its
distribution requires. A module that is only imported on the way, as by the `__init__` of a package, is followed in what it
imports at once; one that the component uses also in the imports within its functions. So a change of one plugin of a package
leaves artefacts of the others as they are. A package that loads its names when they are used has a stub with their modules;
any other file that imports by a name it computes counts with all files of its folder.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from packaging.utils import canonicalize_name

_CORE = "kdtool"
_NAME = re.compile(r"[\w.-]+")
_COMPUTED = re.compile(rb'\bimport_module\((?!")|\b__import__\(|\bsys\.executable\b(?!.*"-m", __name__)')
"""Imports by computed names; also other processes, unless they run the file itself."""


@cache
def code_of(cls: type, package: str) -> tuple[str, Mapping[str, str]]:
    """Return a hash of a class's own code, and version and hash of the code that it reaches in each library.

    A class that was created again, as by reloading its module, is hashed again. A class without a file, such as one in a
    notebook, gets another hash in every process, since a change of it cannot be detected.

    Args:
        cls: a component's class.
        package: the distribution that brings it; "" if none does.
    """
    parts = cls.__module__.split(".")
    names = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    outermost = next((name for name in names if getattr(sys.modules.get(name), "__file__", None)), None)
    if outermost is None or not Path(start := str(sys.modules[outermost].__file__)).is_file():
        return uuid4().hex, {}
    libraries = {name.replace("-", "_"): name for name in _libraries(package)}
    places = {outermost: Path(start), **{module: file for module in libraries if (file := _place_of(module))}}
    reached = _reach(cls.__module__, places)
    return _hash_of(reached, outermost, places), {
        name: f"{distribution(name).version} {_hash_of(reached, module, places)}" for module, name in libraries.items()
    }


def _place_of(module: str) -> Path | None:
    spec = find_spec(module)
    return Path(spec.origin) if spec and spec.origin else None


def _hash_of(reached: Mapping[Path, str], package: str, places: Mapping[str, Path]) -> str:
    """Hash the files that were reached of a package; "" if none were."""
    mine = sorted(
        (path.relative_to(places[package].parent).as_posix(), path) for path in reached if reached[path] == package
    )
    digest = hashlib.sha256()
    for name, path in mine:
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest() if mine else ""


def _reach(module: str, places: Mapping[str, Path]) -> dict[Path, str]:
    """Return the files that using a module can run, each with its package; only those of packages in `places`."""
    reached: dict[Path, str] = {}
    followed, waiting = set[tuple[Path, bool]](), [(module, True)]
    while waiting:
        name, is_used = waiting.pop()
        for package, path, is_named in _files_of(name, places):
            use = path, is_used and is_named
            if use not in followed:
                followed.add(use)
                reached[path] = package
                imports = _read_imports(path, _module_name(path, package, places[package]))
                waiting += [(each, use[1]) for each in imports.at_once]
                waiting += [(each, True) for each in imports.later if use[1]]
    return reached


def _files_of(name: str, places: Mapping[str, Path]) -> Iterator[tuple[str, Path, bool]]:
    """Yield the files that importing `name` runs: those of its packages, and with True the one that defines it."""
    package = next((each for each in places if name == each or name.startswith(f"{each}.")), None)
    if package is None:
        return
    file, module = places[package], package
    for part in name[len(package) + 1 :].split(".") if name != package else ():
        yield package, file, False
        folder = file.parent
        inner = [folder / part / "__init__.py", folder / f"{part}.py"] if file.stem == "__init__" else []
        next_file = next((path for path in inner if path.is_file()), None)
        if next_file is None:  # a name of this module, which may have it from another one
            if home := _read_imports(file, module).homes.get(part):
                yield from _files_of(home, places)
                return
            break
        file, module = next_file, f"{module}.{part}"
    yield package, file, True


def _module_name(path: Path, package: str, start: Path) -> str:
    parts = path.relative_to(start.parent).with_suffix("").parts if start.stem == "__init__" else ()
    return ".".join((package, *(part for part in parts if part != "__init__")))


class _Imports(NamedTuple):
    """Names that a file imports when it is imported and in its functions, and where a package has its names from."""

    at_once: tuple[str, ...]
    later: tuple[str, ...]
    homes: Mapping[str, str]


@cache
def _read_imports(path: Path, module: str) -> _Imports:
    is_package, source, stub = path.stem == "__init__", path.read_bytes(), path.with_suffix(".pyi")
    package = module if is_package else module.rpartition(".")[0]
    at_once, later, homes = list[str](), list[str](), dict[str, str]()
    for node, is_late in _import_statements(ast.parse(source).body):
        names = {alias.asname or alias.name: alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names = {local: f"{origin}.{name}" for local, name in names.items()}
            homes |= names if is_package and not is_late else {}
        (later if is_late else at_once).extend(names.values())
    if stub.is_file():
        lazy = [line for line in ast.parse(stub.read_bytes()).body if isinstance(line, ast.ImportFrom)]
        homes = {alias.name: f"{line.module}.{alias.name}" for line in lazy for alias in line.names}
        later += homes.values()  # for `import` of the package as a whole
    elif _COMPUTED.search(source):
        inner = [file.relative_to(path.parent).with_suffix("") for file in sorted(path.parent.rglob("*.py"))]
        at_once += [".".join((package, *file.parts)) for file in inner if file.name != "__init__"]
    return _Imports(tuple(at_once), tuple(later), homes)


def _import_statements(
    body: Iterable[ast.AST], *, is_late: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield imports, with True those within functions; none for type checkers."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, is_late
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            late = is_late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _import_statements(ast.iter_child_nodes(node), is_late=late)


def _libraries(name: str) -> list[str]:
    """Return the installed libraries that require kdtool and that a distribution requires, directly or through others."""
    reached = [str(canonicalize_name(name))]
    for other in reached:  # grows meanwhile
        reached += [each for each in _requirements_of(other) if each not in {*reached, _CORE}]
    return [library for library in reached[1:] if _CORE in _requirements_of(library)]


@cache
def _requirements_of(name: str) -> tuple[Any, ...]:
    """Return the names of distributions that an installed one requires; none if it is not installed.

    Extras count only if it requires kdtool: those of all others name hundreds of packages.
    """
    try:
        required = distribution(name).requires or () if name else ()
    except PackageNotFoundError:
        return ()
    plain = [text for text in required if "extra" not in text.partition(";")[2]]
    names = [
        [canonicalize_name(match[0]) for text in texts if (match := _NAME.match(text))] for texts in (plain, required)
    ]
    return tuple(dict.fromkeys(names[_CORE in names[0]]))
