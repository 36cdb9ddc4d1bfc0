"""Distribute prompts over several teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

__all__ = ["route"]


def route(name: str, shares: Mapping[str, float]) -> str:
    """Return the teacher that answers the prompt with this id.

    The teacher depends only on the id, never on other prompts or their order. Of many prompts each teacher gets about its
    share.

    Args:
        name: the prompt's id.
        shares: of each teacher, above 0, relative to their sum. Their order has no influence.
    """
    remainder = (
        int.from_bytes(hashlib.sha256(f"whom to ask {name}".encode()).digest()[:8]) / 2**64 * sum(shares.values())
    )
    teachers = sorted(shares)
    for teacher in teachers:
        remainder -= shares[teacher]
        if remainder < 0:
            return teacher
    return teachers[-1]  # rounding left a remainder of 0 or a little more
