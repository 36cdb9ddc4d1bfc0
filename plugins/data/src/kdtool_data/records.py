"""Records of datasets: of the Hugging Face Hub as a stream, or of local data files. A library for corpus plugins.

`HubDataset` and `DataFiles` name the source of records. Both return its identity and yield its records one by one,
shuffled in a buffer on request. Only the records that are read are fetched, and code of a dataset is never run. Cells of
CSV are text, and values of local JSON keep their type. The library `datasets` reads datasets of the Hub.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import logging
import os
import random
import re
import textwrap
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import kdtool
from pydantic import TypeAdapter, ValidationError

_PATIENCE: Any = (3.0, 10.0, 10.0, 10.0)
"""Seconds to wait for a connection to each address of the Hub, and for its first answer: then it is unreachable."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_AHEAD = 1000
"""Rows of a JSON file that its columns are taken from."""
_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)
_COLUMNS = 10_000
"""Columns of a CSV file that are read as text."""


class Record(dict[str, Any]):
    """The values of a row by column, and the row's place, such as "code.csv, row 3"."""

    def __init__(self, columns: Mapping[str, Any], place: str) -> None:
        super().__init__(columns)
        self.place = place


@dataclass
class HubDataset:
    """A dataset by its name on the Hub. The newest commit of `revision` is looked up only once.

    `remedy` is what a user without a connection can do.
    """

    name: str
    config: str | None = None
    revision: str | None = None
    remedy: str = ""
    _commit: str = field(default="", init=False)

    def identity(self, *, offline: bool = False) -> dict[str, str]:
        """Return the commit that is read, with one request to the Hub; none if `revision` is a full commit hash.

        Raises:
            UsageError: there is no such dataset or revision, or it is not open to everybody.
            ServiceError: the Hub cannot be reached, or the run is offline.
        """
        if offline:
            raise self._unreachable("the run is offline")
        if not self._commit:
            revision = self.revision or ""
            self._commit = revision if _COMMIT.fullmatch(revision) else self._ask()
        return {"commit": self._commit}

    def records(
        self, split: str, *, shuffle_buffer: int | None = None, seed: int = 0, offline: bool = False
    ) -> Iterator[Record]:
        """Yield the records of one of the dataset's own splits. Raises as `identity`, and if the stream breaks off."""
        if Path(self.name).exists():  # `datasets` would read it instead of the dataset
            raise kdtool.UsageError(
                f"a folder or file {self.name} is here, too: run elsewhere, or name its files in the setting `files`"
            )
        revision = self.identity(offline=offline)["commit"]
        source = f"dataset {self.name}" + (f" ({self.config})" if self.config else "")
        try:
            stream = _stream(self.name, split, name=self.config, revision=revision)
            if shuffle_buffer is not None:
                stream = stream.shuffle(seed=seed, buffer_size=shuffle_buffer)
            for number, record in enumerate(stream, 1):
                yield Record(record, f"{source}, {split}, row {number:,}{' after shuffling' if shuffle_buffer else ''}")
        except Exception as error:  # of pyarrow, json, fsspec, or the HTTP library below
            message = f"{source} cannot be read: {_message(error)}"
            if not isinstance(error, ValueError | TypeError | KeyError | FileNotFoundError | ImportError):
                raise kdtool.ServiceError(f"{message}; run again: what is finished is kept") from error
            raise kdtool.UsageError(message) from error

    def _ask(self) -> str:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            with kdtool.waiting(f"asking the Hub for dataset {self.name} …"):
                return str(HfApi().dataset_info(self.name, revision=self.revision, timeout=_PATIENCE).sha)
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", 0)
            if status in {401, 403, 404}:
                at = f" at {self.revision}" if self.revision else ""
                raise kdtool.UsageError(
                    f"dataset {self.name}{at} is not on the Hub, or not open to you: check the name; if its owner asks for "
                    "consent, give it on its page and log in with `hf auth login`"
                ) from error
            raise self._unreachable(f"the Hub answers {status}") from error
        except ValueError as error:  # a malformed name, or an answer of the Hub that is not JSON
            raise kdtool.UsageError(f"{self.name!r} is not a dataset on the Hub: {error}") from error
        except Exception as error:  # requests, httpx: the library for HTTP below differs from version to version
            raise self._unreachable(str(error) or type(error).__name__) from error

    def _unreachable(self, reason: str) -> kdtool.ServiceError:
        where = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        remedy = self.remedy or (
            f"fetch it elsewhere (hf download --repo-type dataset {self.name} --local-dir FOLDER) and name its files in the "
            "setting `files` instead of `dataset`"
        )
        return kdtool.ServiceError(
            f"dataset {self.name}: {where} cannot be reached ({reason}); try again with a connection, or {remedy}"
        )


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
        missing = [str(path) for path in self.paths if not path.is_file()]
        if missing:
            raise kdtool.UsageError(f"there is no file {' and no '.join(missing)}")
        drawn, buffer = random.Random(seed), list[Record]()
        paths = self.paths if shuffle_buffer is None else drawn.sample(self.paths, len(self.paths))
        for record in chain.from_iterable(map(self._records, paths)):
            if shuffle_buffer is None:
                yield record
            elif len(buffer) < shuffle_buffer:
                buffer.append(record)
            else:
                index = drawn.randrange(shuffle_buffer)
                yield buffer[index]
                buffer[index] = record
        drawn.shuffle(buffer)
        yield from buffer

    def _records(self, path: Path) -> Iterator[Record]:
        number = 0
        try:
            read = {"json": _read_json, "csv": _read_csv}.get(self._format)
            rows = read(path) if read else _stream(self._format, "train", data_files=[str(path)])
            for number, row in enumerate(rows, 1):
                yield Record(row, f"{path.name}, row {number:,}")
        except Exception as error:  # of pyarrow, pandas, gzip or the file system
            after = f" after row {number:,}" if number else ""
            remedy = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
            raise kdtool.UsageError(f"{path} cannot be read{after}: {_message(error)}{remedy}") from error

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


def _stream(path: str, split: str, **settings: Any) -> Any:
    """Return `datasets.load_dataset(path, split=split, streaming=True, **settings)` with all cells of CSV as text."""
    import datasets

    logging.getLogger("datasets").setLevel(logging.ERROR)  # kdtool reports the same problems in its own words
    builder = datasets.load_dataset_builder(path, **settings)
    if builder.name == "csv":  # pandas takes None, NA and null for missing, and 007 for 7
        builder.config.features = builder.info.features = None
        builder.config.na_filter, builder.config.converters = False, dict.fromkeys(range(_COLUMNS), str)
    return builder.as_streaming_dataset(split=split)


def _read_json(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of JSON Lines, or of one list. Columns of the first rows are null in rows without them."""
    with _open(path) as file:
        begin = 3 if file.read(3) == BOM_UTF8 else 0
        file.seek(begin)
        is_list = next(filter(None, map(bytes.strip, file)), b"").startswith(b"[")
        file.seek(begin)
        lines = (_parse(number, line) for number, line in enumerate(file, 1) if line.strip())
        rows = iter(_parse(1, file.read())) if is_list else lines
        ahead = list(islice(rows, _AHEAD))
        absent = dict.fromkeys(name for row in ahead if isinstance(row, dict) for name in row)
        for row in chain(ahead, rows):
            if not isinstance(row, dict):
                raise TypeError(f"found {row!r:.60}, not an object; write one object for each row")
            yield {**absent, **row}


def _parse(number: int, text: bytes) -> Any:
    try:
        return _ANYTHING.validate_json(text)
    except ValidationError as error:
        where = error.errors()[0]["ctx"]["error"].replace("at line 1 ", f"at line {number:,} ")
        raise ValueError(f"{where}; expected an object in UTF-8 on each line, or one list of objects") from None


def _read_csv(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of CSV, their cells as text."""
    csv.field_size_limit(2**31 - 1)
    with io.TextIOWrapper(_open(path), "utf-8-sig", newline="") as text:
        rows = csv.reader(text, strict=True)
        header = next(rows, [])
        if len(set(header)) < len(header):
            raise ValueError(f"two columns have the same name in {header}; rename one")
        for row in filter(None, rows):
            if len(row) != len(header):
                what = f"line {rows.line_num:,} has {len(row)} cells, the first line {len(header)}"
                raise ValueError(f"{what}; put quotes around a cell with commas or line ends")
            yield dict(zip(header, row, strict=True))


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _message(error: BaseException) -> str:
    """Return the message of the innermost cause, which `datasets` wraps in its own exceptions, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return textwrap.shorten(str(error), 300, placeholder=" …") or type(error).__name__
