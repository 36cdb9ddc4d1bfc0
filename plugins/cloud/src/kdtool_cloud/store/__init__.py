"""Stores in buckets and shared folders: `--store s3://bucket/prefix`, `gs://`, `hf://`, `file://`.

`ObjectStore` is the class that the core opens. Artefacts are made and read in a local folder, and copied to the remote
store.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from urllib.request import url2pathname

import kdtool

from kdtool_cloud.store.artefacts import MANIFEST, fetch_artefact, free_space, read_limit, send_artefact, touch
from kdtool_cloud.store.leases import Holder, Lease, hold
from kdtool_cloud.store.objects import FolderObjects, Objects, open_bucket
from kdtool_cloud.store.snapshots import Answers, RunFiles, known_runs

__all__ = ["ObjectStore"]
_MACHINE = "kdtool-machine"
"""The file that identifies the local folder."""


def open_objects(address: str) -> Objects:
    """Return the objects of an address: `file:///folder`, or of fsspec, such as `s3://bucket/prefix`.

    Raises:
        UsageError: it cannot be read, or a package for it is missing.
    """
    scheme, _, path = address.partition("://")
    if scheme != "file":
        return open_bucket(address)
    if not path.startswith("/"):
        raise kdtool.UsageError(f"store {address!r} names no folder; expected file:///FOLDER; write three slashes")
    return FolderObjects(Path(url2pathname(path)))


class ObjectStore:
    """A store in a bucket or a shared folder, with its local folder `folder`.

    Keys are `store/KIND/NAME` and `runs/RUN/KIND/NAME`. Every method may raise ServiceError.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self._address = address
        self._folder = folder
        self._objects = open_objects(address)
        self._machine = _identify(folder)
        self._limit = read_limit()
        self._answers = Answers(self._objects, folder / "answers.sqlite", self._machine, address)
        self._run: tuple[RunFiles, Lease] | None = None

    def has(self, key: str) -> bool:
        """Return whether an artefact is complete."""
        try:
            self._objects.read(f"{key}/{MANIFEST}")
        except FileNotFoundError:
            return False
        return True

    def fetch(self, key: str, folder: Path) -> None:
        """Fetch an artefact into its local folder, if it is complete."""
        fetch_artefact(self._objects, key, folder)

    def keep(self, key: str, folder: Path) -> None:
        """Write a local artefact unless it is there; then new answers and the run's files.

        If another machine completed it first, because this one was killed in between, its copy replaces the local one.

        Raises:
            LockedError: another machine has taken the run over.
        """
        touch(folder)
        aside = folder.with_name(f"{folder.name}.removed")
        shutil.rmtree(aside, ignore_errors=True)  # left by a process that was stopped below
        if not send_artefact(self._objects, key, folder):
            folder.replace(aside)
            fetch_artefact(self._objects, key, folder)
            shutil.rmtree(aside)
        self._push()

    def lease(self, key: str, folder: Path, say: Callable[[str], None]) -> AbstractContextManager[object]:
        """Hold the lease of an artefact that is being made; waits for another machine that makes it."""
        waiting = f"another machine is making {folder.name}; waiting for it"
        holder = Holder.at(f"{self._machine}/{folder}")
        return hold(self._objects, key, holder, lambda other: say(f"{waiting} ({other})"))

    def open_answers(self) -> None:
        """Bring the stored answers here, to be written by this machine until the run ends.

        Raises:
            LockedError: another machine writes them.
            StorageError: this machine has answers that the store lacks, and the other way round.
        """
        self._answers.open()

    @contextmanager
    def run(self, name: str, folder: Path) -> Iterator[None]:
        """Hold a run, whose files are brought here before and copied up afterwards.

        Raises:
            LockedError: another machine works on the run.
            UsageError: the server ignores conditions of writes.
        """
        self._try_conditions()

        def refuse(holder: str) -> None:
            raise kdtool.LockedError(
                f"the run {name} in {self._address} is in use by {holder}; wait for it, or change the recipe's name"
            )

        files = RunFiles(self._objects, name, folder, self._machine)
        holder = Holder.at(f"{self._machine}/{folder}")
        with hold(self._objects, f"runs/{name}", holder, refuse) as lease, closing(self._answers):
            files.pull()
            self._run = files, lease
            try:
                yield
            except Exception:
                with suppress(Exception):  # the first error counts
                    self._push()
                raise
            self._push()
            self._run = None
        if self._limit is not None:
            free_space(
                self._folder, self._limit, folder, lambda path: self.has(f"store/{path.parent.name}/{path.name}")
            )

    def runs(self) -> list[Path]:
        """Fetch reports, results and events of runs that are not on this machine; return their folders."""
        return known_runs(self._objects, self._machine, self._folder / "elsewhere")

    def _try_conditions(self) -> None:
        key = f"leases/try-{secrets.token_hex(8)}"
        ignored = self._objects.create(key, b"first") and self._objects.create(key, b"second")
        self._objects.delete(key)
        if ignored:
            raise kdtool.UsageError(
                f"the server of {self._address} ignores the condition of a write (If-None-Match), so that machines could "
                "overwrite each other's answers; use a server that supports it, or a local --store"
            )

    def _push(self) -> None:
        self._answers.push()
        if self._run is None:
            return
        files, lease = self._run
        if lease.is_lost:
            raise kdtool.LockedError(
                f"another machine has taken over this run in {self._address}, because this one did not reach the store for "
                "a minute; wait for it, and run again"
            )
        files.push()


def _identify(folder: Path) -> str:
    """Return what identifies a local folder of a store among those of all machines."""
    file = folder / _MACHINE
    with suppress(FileExistsError), file.open("x", encoding="ascii") as opened:
        opened.write(secrets.token_hex(8))
    return file.read_text(encoding="ascii")
