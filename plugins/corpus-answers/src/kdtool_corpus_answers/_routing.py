"""Routing of prompts that several teachers share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

__all__ = ["route"]


def route(name: str, shares: Mapping[str, float]) -> str:
    """Return the teacher that the prompt of this id goes to.

    The id alone decides, never the order of prompts or which others there are: of many prompts each teacher gets about its
    share.

    Args:
        name: the prompt's id.
        shares: of each teacher, above 0; what they sum to stands for all prompts. Their order has no influence.
    """
    place = int.from_bytes(hashlib.sha256(f"whom to ask {name}".encode()).digest()[:8]) / 2**64 * sum(shares.values())
    teachers = sorted(shares)
    for teacher in teachers:
        place -= shares[teacher]
        if place < 0:
            return teacher
    return teachers[-1]  # what rounding left over
