"""Objects by key: the few operations that buckets and shared folders have in common.

An object is written whole or not at all, and is visible to all machines at once, as S3 and GCS promise. `create` writes
only a new object: of several machines one succeeds. That is all that leases, manifests and snapshots rest on.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Objects"]


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
