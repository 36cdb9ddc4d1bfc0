"""Model folders that others wrote, opened once in a limited process before this one opens them. Light: no torch."""

from __future__ import annotations

import json
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kdtool
from kdtool_torch import cache_folder, write_cached

from kdtool_transformers.limits import LimitedProcess

OPENER = LimitedProcess("kdtool_transformers.rehearsal", seconds=20, megabytes=4000, idle=30)
"""The largest published tokenizers take 5 s and 1 GB."""
_TEXTS, _TEXT_BYTES = {".json", ".txt", ".model", ".jinja"}, 128_000_000
"""Files that are parsed, and the most bytes of each; published ones have less than 40 MB."""
_HEADER = 100_000_000
"""Bytes of the longest header of safetensors."""
opened = set[tuple[object, ...]]()
"""Folders that this process opens without asking, by their `state_of`."""


def prepare(folder: Path | str) -> None:
    """Start the limited process if a folder needs it, so that it gets ready while this one imports other modules."""
    if isinstance(folder, Path) and state_of(folder) not in opened and not _mark_of(folder).exists():
        OPENER.start()


def require_openable(folder: Path, adapter: Path | None = None) -> None:
    """Have a folder, or an adapter to its model, opened in the limited process; once for each content of their files.

    Raises:
        UsageError: that takes too much time or memory.
        StorageError: a file is too large to parse.
    """
    folders = [each.absolute() for each in (folder, adapter) if each is not None]
    if (state := state_of(*folders)) in opened:
        return
    if not (mark := _mark_of(*folders)).exists():
        if error := OPENER.ask(folder=str(folders[0]), adapter="".join(map(str, folders[1:]))).get("error"):
            raise kdtool.UsageError(
                f"{folders[-1]} is not opened, since {error} to read its configuration, its tokenizer and the headers of "
                "its weights; expected a folder that transformers or peft saved: download or save it again"
            )
        write_cached(mark, f"{folders[-1]}\n")
    opened.add(state)


def _files(*folders: Path) -> list[Path]:
    """Return the files that transformers reads, which keeps further templates in a subfolder."""
    found = ([*folder.iterdir(), *folder.glob("additional_chat_templates/*")] for folder in folders)
    return [file for files in found for file in sorted(files) if file.is_file()]


def state_of(*folders: Path) -> tuple[object, ...]:
    """Return path, size and time of change of each file in these folders."""
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in _files(*folders))


def _mark_of(*folders: Path) -> Path:
    """Return the file that exists once these were opened, named by all that is read there except the values of weights."""
    content = sha256(" ".join(map(version, ("transformers", "tokenizers", "torch"))).encode())
    for file in _files(*folders):
        if (is_text := file.suffix in _TEXTS) or file.suffix == ".safetensors":
            # A student's tokenizer takes texts over: one from elsewhere, such as a key, would be published with it.
            limit, inside = (_TEXT_BYTES, file.parent) if is_text else (None, None)
            with kdtool.open_regular(file, limit, inside) as opened_file:
                size = limit or min(int.from_bytes(opened_file.read(8), "little"), _HEADER)
                content.update(f"{file.name}\n".encode() + sha256(opened_file.read(size)).digest())
    return cache_folder() / "opened" / content.hexdigest()


_GROWTH = 100
"""Factor by which replacements may lengthen a text; published tokenizers replace single characters."""


def require_bounds(part: Any, owner: str) -> None:
    """Refuse a normalizer or decoder that lengthens texts without bounds: the tokenizers library would exhaust the memory.

    Raises:
        UsageError: its replacements together lengthen a text too much.
    """
    growth, steps = 1.0, [json.loads(part.__getstate__())] if part is not None else []
    while steps:
        step = steps.pop()
        steps += step.get("normalizers") or step.get("decoders") or []
        if step.get("type") == "Replace":
            growth *= max(1, len(step["content"]) / max(1, len(step["pattern"].get("String", ""))))
    if growth > _GROWTH:
        raise kdtool.UsageError(
            f"the tokenizer.json of {owner} makes a text {growth:.3g} times as long by replacements, expected {_GROWTH} "
            "times at most; give the tokenizer that the model was trained with"
        )
