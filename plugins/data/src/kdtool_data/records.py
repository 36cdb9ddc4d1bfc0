"""Records of datasets: of the Hugging Face Hub as a stream, or of local data files. A library for corpus plugins.

`HubDataset` and `DataFiles` name the source of records. Both return its identity and yield its records one by one,
shuffled in a buffer on request. Only the records that are read are fetched, and code of a dataset is never run. The
library `datasets` is imported when records are read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kdtool

_PATIENCE = 10.0
"""Seconds to wait for the Hub's first answer before it counts as unreachable."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass
class HubDataset:
    """A dataset by its name on the Hub. The newest commit of `revision` is looked up only once."""

    name: str
    config: str | None = None
    revision: str | None = None
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
                f"a folder or file {self.name} is here, too: run elsewhere, or name its files instead"
            )
        revision = self.identity(offline=offline)["commit"]
        source = f"dataset {self.name}" + (f" ({self.config})" if self.config else "")
        yield from read_stream(
            source, self.name, shuffle_buffer, seed, name=self.config, split=split, revision=revision
        )

    def _ask(self) -> str:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
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
        return kdtool.ServiceError(
            f"dataset {self.name}: {where} cannot be reached ({reason}); try again with a connection, or fetch it elsewhere "
            f"(hf download --repo-type dataset {self.name} --local-dir FOLDER) and name its files instead"
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
        files = [str(path) for path in self.paths]
        missing = [str(path) for path in self.paths if not path.is_file()]
        if missing:
            raise kdtool.UsageError(f"there is no file {' and no '.join(missing)}")
        yield from read_stream(", ".join(files), self._format, shuffle_buffer, seed, data_files=files, split="train")

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


Record = Mapping[str, Any]


def read_stream(source: str, path: str, shuffle_buffer: int | None, seed: int, **settings: Any) -> Iterator[Record]:
    """Yield the records that `datasets.load_dataset(path, streaming=True, **settings)` gives.

    Args:
        source: name of the source, for messages.
        path: a dataset's name, or a format of files.
        shuffle_buffer: number of records in the buffer that is drawn from at random; None keeps the order.
        seed: seed of the shuffling.
        settings: further arguments.

    Raises:
        UsageError: there is no such configuration, split or file, or a file is damaged.
        ServiceError: the connection broke and did not come back.
    """
    import datasets

    logging.getLogger("datasets").setLevel(logging.ERROR)  # kdtool reports the same problems in its own words
    remote = "data_files" not in settings
    try:
        stream = datasets.load_dataset(path, streaming=True, **settings)
        if shuffle_buffer is not None:
            stream = stream.shuffle(seed=seed, buffer_size=shuffle_buffer)
        for record in stream:
            yield dict(record)
    except GeneratorExit:
        raise
    except kdtool.KdtoolError:
        raise
    except Exception as error:  # of pyarrow, json, fsspec, or the HTTP library below
        message = f"{source} cannot be read: {_first_line(error)}"
        if remote and not isinstance(error, ValueError | TypeError | KeyError | FileNotFoundError):
            raise kdtool.ServiceError(f"{message}; run again: what is finished is kept") from error
        raise kdtool.UsageError(message) from error


def _first_line(error: BaseException) -> str:
    """Return the message of the innermost cause, which `datasets` wraps in its own exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
