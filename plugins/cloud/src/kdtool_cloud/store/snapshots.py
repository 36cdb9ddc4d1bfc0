"""Files that change during a run: answers and the ledger as snapshots of one SQLite file, and the files of a run.

A snapshot is a whole copy of a database that others may be writing. Answers are one SQLite file on the machine that
writes it, copied up as numbered snapshots. Snapshot N + 1 is created after the machine has read snapshot N. It is never
replaced, so that a machine that missed one cannot hide the answers in it. Files of a run besides its artefacts are
report, results, events, graph, and those of trackers.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import kdtool
from filelock import FileLock

from kdtool_cloud.store.artefacts import checked_name, fetch_file, send_file
from kdtool_cloud.store.leases import Holder, Lease, hold
from kdtool_cloud.store.objects import Objects

_DATABASES = {".db", ".sqlite"}
"""Endings of SQLite's files in a run: to open one and look would drop the locks of this process, as POSIX has it."""


def snapshot(file: Path, copy: Path) -> str:
    """Copy a database as it is at one moment, and return the SHA-256 of the copy.

    Raises:
        sqlite3.Error: it cannot be read or written.
    """
    copy.unlink(missing_ok=True)
    os.close(os.open(copy, os.O_CREAT | os.O_WRONLY, 0o600))
    address = f"{file.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # one file, without a log
    with copy.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def restore(copy: Path, file: Path) -> None:
    """Replace the content of a database in one transaction; processes that have it open then read the new one.

    Raises:
        sqlite3.Error: it cannot be read or written.
    """
    if not file.exists():
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(file, timeout=60)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = WAL")


_SNAPSHOTS = "answers"
_KEPT = 2
"""Snapshots that stay in the store."""


class Answers:
    """The file of answers of one store on this machine; `machine` identifies the local folder of the store.

    After `open` it is this machine's to write, until `close`.
    """

    def __init__(self, objects: Objects, file: Path, machine: str, address: str) -> None:
        self._objects = objects
        self._file = file
        self._machine = machine
        self._address = address
        self._copy = file.with_name(file.name + ".snapshot")
        self._state = file.with_name(file.name + ".snapshot.json")
        self._stack = ExitStack()
        self._lease: Lease | None = None

    def open(self) -> None:
        """Take the lease, and bring the latest snapshot here.

        Raises:
            LockedError: another machine writes answers.
            StorageError: this machine and another one have each added answers that the other lacks.
        """
        if self._lease is not None:
            return
        holder = Holder.at(f"{self._machine}/answers")
        with ExitStack() as stack:
            lease = stack.enter_context(hold(self._objects, _SNAPSHOTS, holder, self._refuse))
            with self._alone():
                self._pull()
            self._lease, self._stack = lease, stack.pop_all()

    def push(self) -> None:
        """Write a snapshot if there are new answers.

        Raises:
            StorageError: another machine has written one meanwhile.
        """
        if self._lease is None or not self._file.exists():
            return
        with self._alone():
            state, sha256 = self._read_state(), snapshot(self._file, self._copy)
            if sha256 == state["sha256"]:
                return
            send_file(self._objects, _SNAPSHOTS, self._copy, sha256, self._objects.list(_SNAPSHOTS))
            number = state["number"] + 1
            entry = {"bytes": self._copy.stat().st_size, "sha256": sha256}
            if not self._objects.create(_snapshot_key(number), json.dumps(entry).encode()):
                raise self._conflict()
            self._write_state(number, sha256)
            self._forget(number - _KEPT)

    def close(self) -> None:
        """End the lease."""
        self._stack.close()
        self._lease = None

    def _pull(self) -> None:
        number, state = self._latest(), self._read_state()
        if number == state["number"]:
            return
        entry = json.loads(self._objects.read(_snapshot_key(number)))
        local = snapshot(self._file, self._copy) if self._file.exists() else state["sha256"]
        if local not in {entry["sha256"], state["sha256"]}:
            raise self._conflict()
        if local != entry["sha256"]:
            self._copy.unlink(missing_ok=True)
            fetch_file(self._objects, _SNAPSHOTS, self._copy, entry, self._objects.list(_SNAPSHOTS))
            restore(self._copy, self._file)
        self._write_state(number, entry["sha256"])

    def _latest(self) -> int:
        names = (key.removeprefix(f"{_SNAPSHOTS}/") for key in self._objects.list(_SNAPSHOTS))
        return max((int(name[:-5]) for name in names if name.endswith(".json")), default=0)

    def _forget(self, last: int) -> None:
        """Delete snapshots up to number `last`, with the parts that only they have."""
        there = self._objects.list(_SNAPSHOTS)
        manifests = {key: json.loads(self._objects.read(key))["sha256"] for key in there if key.endswith(".json")}
        old = {key for key in manifests if int(key.removeprefix(f"{_SNAPSHOTS}/")[:-5]) <= last}
        needed = {sha256 for key, sha256 in manifests.items() if key not in old}
        for key in old:
            self._objects.delete(key)
        for key in there.keys() - manifests.keys():
            if key.removeprefix(f"{_SNAPSHOTS}/").partition(".")[0] not in needed:
                self._objects.delete(key)

    def _alone(self) -> FileLock:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._file.with_name(f"{self._file.name}.snapshot.lock"))

    def _read_state(self) -> dict[str, Any]:
        if not self._state.exists():
            return {"number": 0, "sha256": ""}
        state: dict[str, Any] = json.loads(self._state.read_text(encoding="utf-8"))
        return state

    def _write_state(self, number: int, sha256: str) -> None:
        kdtool.write_beside(self._state, json.dumps({"number": number, "sha256": sha256}))

    def _refuse(self, holder: str) -> None:
        raise kdtool.LockedError(
            f"the answers in {self._address} are being written by {holder}; wait until its run has ended, or give this run "
            "another --store"
        )

    def _conflict(self) -> kdtool.StorageError:
        return kdtool.StorageError(
            f"{self._file} and the answers in {self._address} each have answers that the other lacks: a run on this machine "
            f"was stopped before it copied its answers, and another machine went on. Move {self._file.name}* away, into a "
            "safe place if answers were paid for, and run again: it continues with the answers of the store"
        )


def _snapshot_key(number: int) -> str:
    return f"{_SNAPSHOTS}/{number:08}.json"


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
        record = _read_record(self._objects, _record_key(self._name))
        if record["place"] != self._place or not (self._folder / "graph.json").exists():
            self.fetch(record["files"])

    def fetch(self, names: list[str]) -> None:
        """Fetch files, each written under a temporary name and renamed."""
        for name in map(checked_name, names):
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            kdtool.write_beside(path, self._objects.read(f"runs/{self._name}/files/{name}"))

    def push(self) -> None:
        """Write the files that have changed since the last call, and a record of all."""
        names = sorted(self._names())
        changed = {name: status for name in names if (status := self._status(name)) != self._sent.get(name)}
        for name in changed:
            self._objects.write(f"runs/{self._name}/files/{name}", self._content(self._folder / name))
        if changed:
            record = {"name": self._name, "place": self._place, "files": names}
            self._objects.write(_record_key(self._name), json.dumps(record).encode())
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
        if path.suffix not in _DATABASES:
            return path.read_bytes()
        copy = path.with_name(f"{path.name}.snapshot")
        try:
            snapshot(path, copy)
            return copy.read_bytes()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:  # something else by that name
                raise
            return path.read_bytes()
        finally:
            copy.unlink(missing_ok=True)


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


def _record_key(name: str) -> str:
    return f"{_KNOWN}/{name.replace('/', '+')}.json"
