"""Local data files of one format, read as a stream."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import kdtool

from kdtool_datasets._stream import Record, read

__all__ = ["DataFiles"]

_FORMATS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".arrow": "arrow",
    ".csv": "csv",
}


class DataFiles:
    """Files of records: parquet, JSON (Lines), arrow or CSV, the text formats also as `.gz`.

    Raises:
        UsageError: the files' names are of several formats, or of none.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._format = self._one_format()

    def identity(self, *, offline: bool = False) -> dict[str, str]:
        """Return each file's SHA-256 by its name.

        Raises:
            UsageError: a file cannot be read.
        """
        hashes: dict[str, str] = {}
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise kdtool.UsageError(f"{path} cannot be read: {error.strerror or error}") from error
        return hashes

    def records(
        self, split: str = "train", *, shuffle_buffer: int | None = None, seed: int = 0, offline: bool = False
    ) -> Iterator[Record]:
        """Yield the records of all files, in order: files are one split, regardless of its name.

        Raises:
            UsageError: a file is missing or damaged.
        """
        files = [str(path) for path in self.paths]
        missing = [str(path) for path in self.paths if not path.is_file()]
        if missing:
            raise kdtool.UsageError(f"there is no file {' and no '.join(missing)}")
        yield from read(", ".join(files), self._format, shuffle_buffer, seed, data_files=files, split="train")

    def _one_format(self) -> str:
        formats: dict[str, Path] = {}
        for path in self.paths:
            suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
            if suffix not in _FORMATS:
                raise kdtool.UsageError(
                    f"{path} has an unknown suffix; expected one of {', '.join(_FORMATS)} (also .gz)"
                )
            formats.setdefault(_FORMATS[suffix], path)
        if len(formats) > 1:
            raise kdtool.UsageError(
                f"files of one corpus have one format: {' and '.join(map(str, formats.values()))} differ"
            )
        return next(iter(formats))
