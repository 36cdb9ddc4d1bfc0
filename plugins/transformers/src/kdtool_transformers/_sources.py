"""Locate a model's weights, given a recipe's folder, Hub name, or .gguf file; identify them. Light."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import kdtool
from kdtool_torch import content_hash

__all__ = ["Source", "find_source", "is_cached", "source_identity", "weights_identity"]


class Source(NamedTuple):
    """Source of weights: a folder, or a Hub name with a revision (None: the newest)."""

    place: Path | str
    revision: str | None = None


def find_source(text: str, revision: str | None = None, say: Callable[[str], None] = print) -> Source:
    """Return where the weights are that `text` names; a .gguf file is converted, once.

    Raises:
        UsageError: there is no such file or folder, and it is not a Hub name; or a revision of a folder was given.
    """
    path = Path(text).expanduser()
    if path.suffix.lower() == ".gguf":
        from kdtool_transformers._gguf import convert_gguf

        if not path.is_file():
            raise kdtool.UsageError(f"no such file: {path}; give a folder, a Hub name or a .gguf file")
        return Source(convert_gguf(path, say))
    from kdtool_transformers._open import resolve

    location = resolve(text)
    if isinstance(location, Path) and revision is not None:
        raise kdtool.UsageError(f"revision {revision!r} belongs to Hub names; {location} is a folder")
    return Source(location, revision)


def source_identity(source: Source, *, offline: bool = False) -> str:
    """Return a name of the weights' content: the SHA-256 of a folder's files, or the commit of a Hub name."""
    from kdtool_transformers._open import open_config

    if isinstance(source.place, Path):
        return weights_identity(source.place)
    commit = getattr(open_config(source.place, revision=source.revision, offline=offline), "_commit_hash", None)
    if not commit:
        raise kdtool.ServiceError(f"the Hub returned no commit for {source.place}; give a revision or a local folder")
    return str(commit)


def weights_identity(folder: Path) -> str:
    """Return a SHA-256 over a model folder's configuration and weight files, by content.

    Hashes of files are kept in the user's cache by path, size and time of change, so that a second call is free.

    Raises:
        UsageError: the folder holds no safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise kdtool.UsageError(f"{folder} holds no *.safetensors: the weights are missing")
    total = sha256()
    for file in [folder / "config.json", *files]:
        total.update(f"{file.name} {content_hash(file)}\n".encode())
    return total.hexdigest()


def is_cached(hub_name: str, revision: str | None = None) -> bool:
    """Return whether the files of a Hub name are on this machine: configuration, tokenizer, and weights or their index."""
    from huggingface_hub import try_to_load_from_cache

    def is_held(name: str) -> bool:
        asked = (hub_name, name) if revision is None else (hub_name, name, None, revision)
        return isinstance(try_to_load_from_cache(*asked), str)

    weights = is_held("model.safetensors") or is_held("model.safetensors.index.json")
    return weights and is_held("config.json") and (is_held("tokenizer.json") or is_held("tokenizer_config.json"))
