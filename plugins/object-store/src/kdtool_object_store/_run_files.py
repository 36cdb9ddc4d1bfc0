"""Files of a run besides its artefacts: report, results, events, graph, and those of trackers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdtool_object_store._names import checked_name
from kdtool_object_store._objects import Objects
from kdtool_object_store._snapshots import is_database, snapshot

__all__ = ["RunFiles", "known_runs"]

_KNOWN = "known-runs"
_ELSEWHERE = ("phases", "exports", "scores", "ranks")
"""Folders with artefacts, which are kept by themselves, and with files of processes."""
_TEMPORARY = (".lock", ".writing", ".partial", "-wal", "-shm", ".snapshot")


class RunFiles:
    """The files of the run `name` in `folder`; `machine` identifies the local store."""

    def __init__(self, objects: Objects, name: str, folder: Path, machine: str) -> None:
        self._objects = objects
        self._name = name
        self._folder = folder
        self._place = f"{machine}/{folder}"
        self._sent: dict[str, tuple[int, int]] = {}

    def pull(self) -> None:
        """Fetch the files if another machine, or another folder, had the run last, or if this folder lacks them."""
        record = _read_record(self._objects, _key(self._name))
        if record["place"] != self._place or not (self._folder / "graph.json").exists():
            self.fetch(record["files"])

    def fetch(self, names: list[str]) -> None:
        """Fetch files, each written under a temporary name and renamed."""
        for name in map(checked_name, names):
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f"{path.name}.writing")
            beside.write_bytes(self._objects.read(f"runs/{self._name}/files/{name}"))
            beside.replace(path)

    def push(self) -> None:
        """Write the files that have changed since the last call, and a record of all."""
        names = sorted(self._names())
        changed = {name: status for name in names if (status := self._status(name)) != self._sent.get(name)}
        for name in changed:
            self._objects.write(f"runs/{self._name}/files/{name}", self._content(self._folder / name))
        if changed:
            record = {"name": self._name, "place": self._place, "files": names}
            self._objects.write(_key(self._name), json.dumps(record).encode())
        self._sent |= changed

    def _names(self) -> Iterator[str]:
        for root, folders, names in os.walk(self._folder):
            here = Path(root)
            folders[:] = [name for name in folders if here != self._folder or name not in _ELSEWHERE]
            for path in (here / name for name in names if not name.startswith(".") and name != "lock.json"):
                if not path.name.endswith(_TEMPORARY) and path.is_file() and not path.is_symlink():
                    yield path.relative_to(self._folder).as_posix()

    def _status(self, name: str) -> tuple[int, int]:
        status = (self._folder / name).stat()
        return status.st_size, status.st_mtime_ns

    def _content(self, path: Path) -> bytes:
        if not is_database(path):
            return path.read_bytes()
        copy = path.with_name(f"{path.name}.snapshot")
        snapshot(path, copy)
        content = copy.read_bytes()
        copy.unlink()
        return content


def known_runs(objects: Objects, machine: str, folder: Path) -> list[Path]:
    """Fetch the files of all runs that are not in a folder of this machine into `folder`, and return their folders."""
    fetched = []
    for key in objects.list(_KNOWN):
        record = _read_record(objects, key)
        owner, _, local = record["place"].partition("/")
        if owner != machine or not Path(local).is_dir():
            run = folder / checked_name(record["name"])
            RunFiles(objects, record["name"], run, machine).fetch(record["files"])
            fetched.append(run)
    return fetched


def _read_record(objects: Objects, key: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(objects.read(key))
    except FileNotFoundError:
        return {"name": "", "place": "", "files": []}
    return record


def _key(name: str) -> str:
    return f"{_KNOWN}/{name.replace('/', '+')}.json"
