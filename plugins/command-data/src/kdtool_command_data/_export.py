"""Write training text for other tools: JSON Lines, Parquet, or a folder that `datasets.load_dataset` opens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_command_data._card import data_card

if TYPE_CHECKING:
    from kdtool_command_data._texts import FoundText

__all__ = ["export", "write_lines", "writing"]

_ROWS = 1_000
"""Rows that are written at once."""


def export(text: FoundText, target: Path, form: str, *, force: bool) -> int:
    """Write a complete text and return the number of its examples.

    Args:
        text: the text.
        target: a file for `jsonl` and `parquet` of a text with one split, else a folder.
        form: "jsonl", "parquet" or "dataset".
        force: replace what is there.

    Raises:
        UsageError: the target exists, or the text is not complete.
        StorageError: the target cannot be written.
    """
    if not text.is_complete:
        raise kdtool.UsageError(f"{text.folder} is not complete; finish it with kdtool run, or see kdtool data recover")
    if target.exists() and not force:
        raise kdtool.UsageError(f"{target} exists; choose another path, or replace it with --force")
    splits = text.splits()
    with writing(target) as made:
        if form == "dataset":
            files = {split: made / "data" / f"{split}-00000-of-00001.parquet" for split in splits}
        elif len(splits) == 1:
            files = {splits[0]: made}
        else:
            files = {split: made / f"{split}.{form}" for split in splits}
        if form == "jsonl":
            count = sum(write_lines(text.records(split), file) for split, file in files.items())
        else:
            fields = dict.fromkeys(chain.from_iterable(record for split in splits for record in text.records(split)))
            count = sum(_write_parquet(text.records(split), file, fields) for split, file in files.items())
        if form == "dataset":
            (made / "README.md").write_text(data_card(text, target.name), encoding="utf-8")
    return count


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Yield a path to write to, which replaces `target` at the end; after a failure `target` is unchanged.

    Raises:
        StorageError: it cannot be written.
    """
    made = target.with_name(f"{target.name}.new")
    try:
        _remove(made)
        made.parent.mkdir(parents=True, exist_ok=True)
        yield made
        _remove(target)
        made.replace(target)
    except OSError as error:
        with suppress(OSError):
            _remove(made)
        raise kdtool.StorageError(
            f"cannot write {target}: {error.strerror or error}; make room, or choose another place"
        ) from error


def write_lines(records: Iterable[Mapping[str, Any]], file: Path) -> int:
    """Write a line of JSON for each record, and return their number."""
    count = 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="\n") as opened:
        for record in records:
            opened.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(records: Iterator[Mapping[str, Any]], file: Path, fields: Iterable[str]) -> int:
    """Write batch after batch, so that memory use stays constant; all files of a text have the same fields."""
    import pyarrow as pa
    from pyarrow import parquet

    turn_type = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema([(name, pa.list_(turn_type) if name == "messages" else pa.string()) for name in fields])
    file.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(records, _ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
