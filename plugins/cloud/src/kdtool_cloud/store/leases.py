"""Leases: one machine at a time makes an artefact, works on a run, or writes the answers.

A lease is an object `NAME.N` that was created, not replaced, and that its holder renews. The one with the highest
number counts. A machine that waits watches the lease by its own clock: if it does not change for a minute, its holder
is gone, and it is superseded by the next number. Clocks of different machines are never compared. No artefact depends
on leases to be whole; they save double work, and keep two machines from writing one run or one file of answers.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import kdtool

from kdtool_cloud.store.objects import Objects

RENEWAL = float(os.environ.get("KDTOOL_LEASE_RENEWAL", "10"))
"""Seconds between two renewals."""
EXPIRY = 6 * RENEWAL
"""Seconds without a renewal after which a lease counts as left."""
_LEASES = "leases"


@dataclass(frozen=True)
class Holder:
    """The holder of a lease: `place` names the local folder or file; one process of a machine may hold its lock."""

    place: str
    about: str

    @classmethod
    def at(cls, place: str) -> Holder:
        """Return this process as the holder of a lease for a place of this machine."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(place, f"process {os.getpid()} on {platform.node()} since {since}")


class Lease:
    """A lease that this process holds. `is_lost` once another machine has superseded it."""

    def __init__(self, objects: Objects, name: str, number: int, holder: Holder, token: str) -> None:
        self.is_lost = False
        self._objects = objects
        self._name = name
        self._number = number
        self._holder = holder
        self._token = token
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)
        self._renewing.start()

    def release(self) -> None:
        """End it."""
        self._ended.set()
        self._renewing.join()
        with suppress(kdtool.ServiceError):  # it expires
            self._objects.delete(f"{self._name}.{self._number}")

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL):
            with suppress(kdtool.ServiceError):  # the next renewal may succeed
                self._renew_once()

    def _renew_once(self) -> None:
        number, content = latest_lease(self._objects, self._name)
        if number > self._number:
            self.is_lost = content.get("place") != self._holder.place  # of this machine: it takes care of both
        elif number == self._number or self._objects.create(self._key, self._body()):
            self._objects.write(self._key, self._body())

    @property
    def _key(self) -> str:
        return f"{self._name}.{self._number}"

    def _body(self) -> bytes:
        return _write(self._holder, self._token)


@contextmanager
def hold(objects: Objects, name: str, holder: Holder, busy: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the lease `name` during the block.

    Args:
        objects: the store.
        name: of the lease, such as `store/rows/ID`.
        holder: this process. The lease of a holder with the same place is superseded at once: it was killed, or shares it.
        busy: called once with the holder's description when another one renews the lease; it may raise.
    """
    lease = _acquire(objects, f"{_LEASES}/{name.replace('/', '+')}", holder, busy)
    try:
        yield lease
    finally:
        lease.release()


def _acquire(objects: Objects, name: str, holder: Holder, busy: Callable[[str], None]) -> Lease:
    token, seen, since, said = secrets.token_hex(8), b"", time.monotonic(), False
    while True:
        number, content = latest_lease(objects, name)
        now = json.dumps(content).encode()
        if now != seen:
            if seen and number and not said:
                said = True
                busy(str(content.get("about")))
            seen, since = now, time.monotonic()
        is_free = not number or content.get("place") == holder.place or time.monotonic() - since > EXPIRY
        if is_free and objects.create(f"{name}.{number + 1}", _write(holder, token)):
            if number:
                objects.delete(f"{name}.{number}")
            return Lease(objects, name, number + 1, holder, token)
        if not is_free:
            time.sleep(RENEWAL / 10)


def latest_lease(objects: Objects, name: str) -> tuple[int, dict[str, Any]]:
    """Return number and content of the lease that counts; 0 and {} if it is free."""
    numbers = [
        int(number)
        for key in objects.list(_LEASES)
        for lease, _, number in [key.rpartition(".")]
        if lease == name and number.isdigit()
    ]
    if not numbers:
        return 0, {}
    try:
        return max(numbers), json.loads(objects.read(f"{name}.{max(numbers)}"))
    except FileNotFoundError:  # ended meanwhile
        return latest_lease(objects, name)


def _write(holder: Holder, token: str) -> bytes:
    return json.dumps({**vars(holder), "token": token, "renewed": secrets.token_hex(4)}).encode()
