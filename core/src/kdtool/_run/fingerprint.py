"""Fingerprints: what an artefact depends on, as one SHA-256.

In it: the format's number, the stage, inputs' fingerprints, the seed where it is used, and of each component that took
part kind, plugin, distribution, version, settings with defaults, source of local or editable code, and `identity()`.
Not in it: names, paths, tool versions, settings marked as not affecting results.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

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
    owner = built.owner
    return {
        "kind": owner.kind,
        "use": owner.use if owner.distribution else "local",
        "distribution": owner.distribution,
        "version": owner.version,
        "config": config,
        "source": _source_hash(built),
        "libraries": _libraries(owner.distribution),
        "identity": dict(identity or {}),
    }


def _source_hash(built: Built) -> str:
    """Hash code that may change without a new version: a local file, or what was installed from a folder."""
    loaded = built.loaded
    return loaded.digest or _code(loaded.distribution, (loaded.cls.__module__ or "").partition(".")[0])


def _libraries(name: str) -> dict[str, str]:
    """Return version and code of the project's own libraries that a distribution needs."""
    found = {}
    for requirement in _requires(name):
        library = re.split(r"[\s;<>=!~\[(]", requirement)[0]
        with contextlib.suppress(PackageNotFoundError):  # it may belong to an extra
            if library.startswith("kdtool-"):
                found[library] = f"{distribution(library).version} {_code(library, library.replace('-', '_'))}"
    return found


def _requires(name: str) -> list[str]:
    try:
        return distribution(name).requires or [] if name else []
    except PackageNotFoundError:
        return []


def _code(name: str, package: str) -> str:
    return _package_hash(package) if _from_folder(name) else ""


@cache
def _from_folder(name: str) -> bool:
    try:
        text = distribution(name).read_text("direct_url.json") if name else None
    except PackageNotFoundError:
        return False
    return bool(text and "dir_info" in json.loads(text))


@cache
def _package_hash(package: str) -> str:
    from importlib import import_module

    file = import_module(package).__file__
    digest = hashlib.sha256()
    for path in sorted(Path(file).parent.rglob("*.py")) if file else ():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
