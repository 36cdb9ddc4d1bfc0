"""Lines of JSON that outlive the process: each is on disk before the next one counts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Journal", "journal"]


class Journal:
    """Records by their `id`."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._file.seek(0)
        self.records: dict[str, dict[str, Any]] = {}
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):  # a killed process left it half written
                break
            record = json.loads(line)
            self.records[record["id"]] = record
            whole += len(line)
        self._file.truncate(whole)

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record, also through a failing of power."""
        self._file.write(json.dumps(record).encode("ascii") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records[record["id"]] = record

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def journal(path: Path) -> Iterator[Journal]:
    """Open the journal in a file, which is made if it is not there."""
    opened = Journal(path)
    try:
        yield opened
    finally:
        opened.close()
