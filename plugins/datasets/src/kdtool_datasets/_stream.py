"""A stream of `datasets`: opened, shuffled, and read with errors that say what to do. Used by `_hub` and `_files`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import kdtool

__all__ = ["Record", "read"]

Record = Mapping[str, Any]


def read(source: str, path: str, shuffle_buffer: int | None, seed: int, **settings: Any) -> Iterator[Record]:
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
