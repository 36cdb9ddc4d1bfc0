"""The code that a component runs, hashed: its module, and the modules that it imports of its package and of libraries.

Imports are read from the sources, those within functions too, and followed through the component's package and through the
libraries of kdtool that its distribution requires. So a change of one plugin of a package, or of a module that nothing here
imports, leaves artefacts as they are. A file that imports by a name it computes counts with all files of its folder.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any
from uuid import uuid4

from packaging.utils import canonicalize_name

_CORE = "kdtool"
_NAME = re.compile(r"[\w.-]+")
_COMPUTED = re.compile(rb"\bimport_module\(|\b__import__\(|\bsys\.executable\b")


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
    """Return the files that importing a module can run, each with its package; only those of packages in `places`."""
    reached: dict[Path, str] = {}
    waiting = [module]
    while waiting:
        for package, path in _files_of(waiting.pop(), places):
            if path not in reached:
                reached[path] = package
                waiting += _read_imports(path, _module_name(path, package, places[package]))
    return reached


def _files_of(name: str, places: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """Yield the files that importing `name` runs: those of its packages, from the outermost on, and its own."""
    package = next((each for each in places if name == each or name.startswith(f"{each}.")), None)
    if package is None:
        return
    start = places[package]
    yield package, start
    folder = start.parent
    for part in name[len(package) + 1 :].split(".") if start.stem == "__init__" else ():
        file = next((file for file in (folder / part / "__init__.py", folder / f"{part}.py") if file.is_file()), None)
        if file is None:
            return  # a name that the module defines
        yield package, file
        folder = file.parent


def _module_name(path: Path, package: str, start: Path) -> str:
    parts = path.relative_to(start.parent).with_suffix("").parts if start.stem == "__init__" else ()
    return ".".join((package, *(part for part in parts if part != "__init__")))


@cache
def _read_imports(path: Path, module: str) -> tuple[str, ...]:
    """Return the names that a file imports, anywhere in it; next to a stub, those of the stub."""
    stub, source = path.with_suffix(".pyi"), path.read_bytes()
    if stub.is_file():
        source = stub.read_bytes()
    elif _COMPUTED.search(source):
        inner = [file for file in sorted(path.parent.rglob("*.py")) if file != path]
        folder = module if path.stem == "__init__" else module.rpartition(".")[0]
        computed = [".".join((folder, *file.relative_to(path.parent).with_suffix("").parts)) for file in inner]
        return (*computed, *_names_in(source, path, module))
    return _names_in(source, path, module)


def _names_in(source: bytes, path: Path, module: str) -> tuple[str, ...]:
    found: list[str] = []
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            found += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    return tuple(found)


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
