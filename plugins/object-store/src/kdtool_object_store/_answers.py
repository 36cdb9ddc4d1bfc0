"""Answers and the ledger of a store: one SQLite file on the machine that writes it, copied up as numbered snapshots.

Snapshot N + 1 is created after the machine has read snapshot N. It is never replaced, so that a machine that missed one
cannot hide the answers in it.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import kdtool
from filelock import FileLock

from kdtool_object_store._lease import Holder, Lease, hold
from kdtool_object_store._objects import Objects
from kdtool_object_store._parts import fetch_file, send_file
from kdtool_object_store._snapshots import restore, snapshot

__all__ = ["Answers"]

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
            seal = _read_seal(self._file)  # before the answers: it must not count commits that the snapshot lacks
            state, sha256 = self._read_state(), snapshot(self._file, self._copy)
            if sha256 == state["sha256"]:
                return
            send_file(self._objects, _SNAPSHOTS, self._copy, sha256, self._objects.list(_SNAPSHOTS))
            number = state["number"] + 1
            entry = {"bytes": self._copy.stat().st_size, "sha256": sha256, "seal": seal}
            if not self._objects.create(_key(number), json.dumps(entry).encode()):
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
        entry = json.loads(self._objects.read(_key(number)))
        local = snapshot(self._file, self._copy) if self._file.exists() else state["sha256"]
        if local not in {entry["sha256"], state["sha256"]}:
            raise self._conflict()
        if local != entry["sha256"]:
            self._copy.unlink(missing_ok=True)
            fetch_file(self._objects, _SNAPSHOTS, self._copy, entry, self._objects.list(_SNAPSHOTS))
            restore(self._copy, self._file)
            if entry["seal"]:
                _seal(self._file).write_text(entry["seal"], encoding="ascii")
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
        beside = self._state.with_name(f"{self._state.name}.writing")
        beside.write_text(json.dumps({"number": number, "sha256": sha256}), encoding="utf-8")
        beside.replace(self._state)

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


def _key(number: int) -> str:
    return f"{_SNAPSHOTS}/{number:08}.json"


def _seal(file: Path) -> Path:
    return file.with_name(f"{file.name}.seal")


def _read_seal(file: Path) -> str:
    return _seal(file).read_text(encoding="ascii") if _seal(file).exists() else ""
