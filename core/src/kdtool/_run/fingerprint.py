"""Fingerprints: one SHA-256 of everything that an artefact depends on.

In it: the format's number, the stage, inputs' fingerprints, the seed where it is used, and of each component that took
part kind, plugin, class, distribution, version, settings with defaults, a hash of its Python sources, and `identity()`.
Sources are also those of all libraries of this project that the distribution requires, directly or through others.
Versions do not identify code: it may be a file, a folder, or a wheel that was built again. Not in it: names, paths,
tool versions, settings marked as not affecting results.
"""

from __future__ import annotations

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

import pydantic
from packaging.utils import canonicalize_name

from kdtool._assembly.built import Built
from kdtool._contract.component import does_not_affect_results
from kdtool._contract.tokenizer import Tokenizer

FORMAT = 3
"""Grows when artefacts of an older kdtool can no longer be used."""
_CORE = "kdtool"
_NAME = re.compile(r"[\w.-]+")


def fingerprint(stage: str, parts: Mapping[str, Any]) -> str:
    """Return the fingerprint of a stage that depends on `parts` (plain data), as 64 hexadecimal digits."""
    text = json.dumps({"format": FORMAT, "stage": stage, "parts": parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def component_part(built: Built, identity: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the part of a fingerprint that stands for one component, as plain data."""
    owner, loaded = built.owner, built.loaded
    cls: Any = loaded.cls
    return {
        "kind": owner.kind,
        "use": owner.use.rpartition(":")[2] if loaded.digest else owner.use,  # where a local file lies does not count
        "class": cls.__qualname__,
        "distribution": owner.distribution,
        "version": owner.version,
        "config": _deciding(built.written),
        "source": loaded.digest or _sources_of(cls),
        "libraries": _libraries(owner.distribution),
        "identity": dict(identity or {}),
    }


def tokenizer_part(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the parts of a fingerprint that stand for a tokenizer, as plain data by readable names."""
    return {
        "tokenizer": tokenizer.fingerprint,
        "start of documents": list(tokenizer.document_start),
        "chat template": tokenizer.chat_fingerprint,
    }


def _deciding(config: pydantic.BaseModel) -> dict[str, Any]:
    """Return the plain form of a config without the settings that do not affect results."""
    fields = type(config).model_fields.items()
    silent = {name for name, field in fields if field.json_schema_extra == does_not_affect_results()}
    return {name: part for name, part in config.model_dump(mode="json").items() if name not in silent}


@cache
def _sources_of(cls: type) -> str:
    """Hash the outermost package that contains a class, or its module if no package does.

    A class that was created again, as by reloading its module, is hashed again. A class without a file, such as one in a
    notebook, gets another hash in every process, since a change of it cannot be detected.
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
    """Return version and code of installed libraries that require kdtool and that a distribution requires.

    Also those that it requires through others, for an extra, or on other machines: an artefact may then be made again
    although nothing that made it changed.
    """
    reached = [str(canonicalize_name(name))]
    for other in reached:  # grows meanwhile
        reached += [each for each in _requirements_of(other) if each not in {*reached, _CORE}]
    libraries: dict[str, str] = {}
    for library in reached[1:]:
        if _CORE in _requirements_of(library):
            spec = find_spec(library.replace("-", "_"))
            code = _hash_of(Path(spec.origin)) if spec and spec.origin else ""
            libraries[library] = f"{distribution(library).version} {code}"
    return libraries


@cache
def _requirements_of(name: str) -> tuple[str, ...]:
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
