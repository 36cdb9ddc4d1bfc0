"""Fingerprints: what an artefact depends on, as one SHA-256.

In it: the format's number, the stage, inputs' fingerprints, the seed where it is used, and of each component that took
part kind, plugin, class, distribution, version, settings with defaults, a hash of its Python sources, and `identity()`.
Versions alone do not tell code apart: it may be a file, a folder, or a wheel that was built again. Not in it: names, paths,
tool versions, settings marked as not affecting results.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from kdtool._assembly import Built

__all__ = ["FORMAT", "component_part", "fingerprint"]

FORMAT = 2
"""Grows when artefacts of an older kdtool can no longer be used."""


def fingerprint(stage: str, parts: Mapping[str, Any]) -> str:
    """Return the fingerprint of a stage that depends on `parts` (plain data), as 64 hexadecimal digits."""
    text = json.dumps({"format": FORMAT, "stage": stage, "parts": parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def component_part(built: Built, identity: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the part of a fingerprint that stands for one component, as plain data."""
    fields = type(built.config).model_fields
    config = built.config.model_dump(mode="json")
    for name, field in fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, Mapping) and extra.get("affects_results") is False:
            del config[name]
    owner, loaded = built.owner, built.loaded
    cls: Any = loaded.cls
    return {
        "kind": owner.kind,
        "use": owner.use.rpartition(":")[2] if loaded.digest else owner.use,  # where a local file lies does not count
        "class": cls.__qualname__,
        "distribution": owner.distribution,
        "version": owner.version,
        "config": config,
        "source": loaded.digest or _sources_of(cls),
        "libraries": _libraries(owner.distribution),
        "identity": dict(identity or {}),
    }


@cache
def _sources_of(cls: type) -> str:
    """Hash the outermost package that a class lies in, or its module where that is in none.

    A class that was made anew, as by reloading its module, is hashed anew. One that lies in no file, such as a notebook's,
    is another one in every process: nobody can tell whether it is as it was.
    """
    parts = cls.__module__.split(".")
    modules = (sys.modules.get(".".join(parts[:depth])) for depth in range(1, len(parts) + 1))
    file = next((file for module in modules if (file := getattr(module, "__file__", None))), None)
    return _hash_of(Path(file)) if file and Path(file).is_file() else uuid4().hex


def _hash_of(file: Path) -> str:
    """Hash a module's file, or all Python files of the package that begins with it."""
    digest = hashlib.sha256()
    for path in sorted(file.parent.rglob("*.py")) if file.stem == "__init__" else [file]:
        digest.update(path.relative_to(file.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def _libraries(name: str) -> dict[str, str]:
    """Return version and code of the project's own libraries that a distribution needs."""
    found = {}
    for requirement in _requires(name):
        library = re.split(r"[\s;<>=!~\[(]", requirement)[0]
        with contextlib.suppress(PackageNotFoundError):  # it may belong to an extra
            if library.startswith("kdtool-"):
                spec = find_spec(library.replace("-", "_"))
                code = _hash_of(Path(spec.origin)) if spec and spec.origin else ""
                found[library] = f"{distribution(library).version} {code}"
    return found


def _requires(name: str) -> list[str]:
    try:
        return distribution(name).requires or [] if name else []
    except PackageNotFoundError:
        return []
