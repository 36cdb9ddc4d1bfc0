"""Objects by key: the few operations that buckets and shared folders have in common, and both implementations.

Buckets are reached through any file system of fsspec; a folder that several machines share is one such as an NFS mount.
An object is written whole or not at all, and is visible to all machines at once, as S3 and GCS promise. `create` writes
only a new object: of several machines one succeeds. Leases, manifests and snapshots rest on nothing else.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import kdtool


class Objects(Protocol):
    """The objects below one address. Keys are relative, with `/`. Several threads may share it.

    Every method raises ServiceError if the store cannot be reached, after retries.
    """

    def read(self, key: str) -> bytes:
        """Return the content of an object.

        Raises:
            FileNotFoundError: it does not exist.
        """

    def write(self, key: str, content: bytes) -> None:
        """Write an object, or replace it."""

    def create(self, key: str, content: bytes) -> bool:
        """Write a new object; return whether the object now has this content."""

    def list(self, prefix: str) -> dict[str, int]:
        """Return sizes in bytes of all objects below a prefix, by key."""

    def delete(self, key: str) -> None:
        """Delete an object, if it exists."""


T = TypeVar("T")
_ATTEMPTS = 8
"""Attempts of one request, on top of those that the client library makes."""
_LONGEST_WAIT = 10.0
"""Seconds between two attempts, at most."""
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface-hub"}
_FINAL = ("AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "NoCredentials")
"""Parts of the names of errors that another attempt does not cure."""


def open_bucket(address: str) -> Objects:
    """Return the objects below an address such as `s3://bucket/prefix`.

    Raises:
        UsageError: the package for this kind of address is missing, or the address cannot be read.
    """
    import fsspec

    scheme = address.partition("://")[0]
    try:
        system, root = fsspec.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    except (ImportError, ValueError) as error:
        package = _PACKAGES.get(scheme, "a package for fsspec")
        raise kdtool.UsageError(
            f"store {address!r} cannot be opened: {error}; {scheme}:// needs {package}, so install it"
        ) from error
    return BucketObjects(system, root.rstrip("/"), address)


class BucketObjects:
    """Objects of a file system of fsspec that writes objects whole, as those for S3 and GCS do.

    Requests that fail for another reason than a refusal are repeated for about 40 seconds.
    """

    def __init__(self, system: Any, root: str, address: str) -> None:
        self._system = system
        self._root = root
        self._address = address

    def read(self, key: str) -> bytes:
        """Return the content of an object."""
        return bytes(self._retry(lambda: self._system.cat_file(self._place(key))))

    def write(self, key: str, content: bytes) -> None:
        """Write an object, or replace it."""
        self._retry(lambda: self._system.pipe_file(self._place(key), content))

    def create(self, key: str, content: bytes) -> bool:
        """Write a new object; return whether the object now has this content.

        A request whose answer was lost has perhaps succeeded, so the content decides.
        """
        try:
            self._retry(lambda: self._system.pipe_file(self._place(key), content, mode="create"))
        except FileExistsError:
            with suppress(FileNotFoundError):  # deleted since
                return self.read(key) == content
            return False
        return True

    def list(self, prefix: str) -> dict[str, int]:
        """Return sizes in bytes of all objects below a prefix, by key."""
        try:
            found = self._retry(lambda: self._system.find(self._place(prefix), detail=True))
        except FileNotFoundError:
            return {}
        return {name.removeprefix(f"{self._root}/"): int(entry["size"]) for name, entry in found.items()}

    def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        with suppress(FileNotFoundError):
            self._retry(lambda: self._system.rm_file(self._place(key)))

    def _place(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _retry(self, request: Callable[[], T]) -> T:
        for attempt in range(_ATTEMPTS):
            try:
                return request()
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:  # each library has its own
                if _is_final(error) or attempt == _ATTEMPTS - 1:
                    raise kdtool.ServiceError(
                        f"store {self._address} cannot be used: {type(error).__name__}: {error}; check the address, the "
                        "credentials and the network, and run again: finished work is kept on this machine"
                    ) from error
            time.sleep(min(_LONGEST_WAIT, 0.2 * 2**attempt) * random.uniform(0.5, 1))
        raise AssertionError("unreachable")


def _is_final(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}"
    return isinstance(error, PermissionError) or any(name in text for name in _FINAL)


_WRITING = ".writing-"


class FolderObjects:
    """Objects as files below `root`, each written under a temporary name, then renamed or, if it must be new, linked."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str) -> bytes:
        """Return the content of an object."""
        with self._errors():
            return (self._root / key).read_bytes()

    def write(self, key: str, content: bytes) -> None:
        """Write an object, or replace it."""
        with self._errors(), self._beside(key, content) as beside:
            beside.replace(self._root / key)

    def create(self, key: str, content: bytes) -> bool:
        """Write a new object; return whether the object now has this content."""
        with self._errors(), self._beside(key, content) as beside:
            try:
                (self._root / key).hardlink_to(beside)
            except FileExistsError:
                return (self._root / key).read_bytes() == content
            return True

    def list(self, prefix: str) -> dict[str, int]:
        """Return sizes in bytes of all objects below a prefix, by key."""
        sizes = {}
        for folder, _, names in os.walk(self._root / prefix):
            for path in (Path(folder, name) for name in names if _WRITING not in name):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    sizes[path.relative_to(self._root).as_posix()] = path.stat().st_size
        return sizes

    def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        with self._errors():
            (self._root / key).unlink(missing_ok=True)

    @contextmanager
    def _beside(self, key: str, content: bytes) -> Iterator[Path]:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}{_WRITING}{secrets.token_hex(4)}")
        try:
            with beside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield beside
        finally:
            beside.unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            raise kdtool.ServiceError(
                f"the shared folder {self._root} cannot be used: {error.strerror}; mount it, make room or allow writing, "
                "and run again"
            ) from error
