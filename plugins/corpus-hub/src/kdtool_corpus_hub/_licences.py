"""Selection of records by their licence. The corpus calls this per record."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["is_allowed"]

PERMISSIVE = frozenset(
    {
        "0bsd",
        "apache-2.0",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsl-1.0",
        "cc0-1.0",
        "isc",
        "mit",
        "mit-0",
        "python-2.0",
        "unlicense",
        "zlib",
    }
)
"""SPDX identifiers of licences without copyleft, in lower case."""


def is_allowed(licence: str, allowed: Collection[str]) -> bool:
    """Return whether each part of `licence`, joined by AND, is in `allowed`, which may contain `permissive`.

    Case does not matter. A licence that is unknown ("") is not allowed.
    """
    names = {name.lower() for name in allowed}
    if "permissive" in names:
        names |= PERMISSIVE
    return bool(licence) and all(part.strip().lower() in names for part in licence.split(" AND "))
