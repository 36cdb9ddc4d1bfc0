"""Which contract a plugin was written for, read from its distribution's metadata: nothing of it is imported.

A plugin's distribution depends on `kdtool[contract-1]`, an extra without packages, and not on a release of the core. The
registry asks `refusal` before it imports a plugin; `kdtool plugins` shows the number. A distribution that states none is
taken, but does not pass its registration's conformance suite.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution

__all__ = ["CONTRACT", "CONTRACTS", "contracts_of", "refusal"]

CONTRACT = 1
"""The contract's number. It grows when plugins written for an older one would no longer work.

`core/contract-N.json` holds what plugins may rely on under each number; a test compares.
"""

CONTRACTS = frozenset({CONTRACT})
"""The numbers whose plugins this core still works with. Its distribution offers an extra `contract-N` for each."""


def contracts_of(distribution: Distribution) -> frozenset[int]:
    """Return the numbers that a distribution requires of kdtool; an empty set if it states none."""
    found: set[int] = set()
    for requirement in distribution.requires or ():
        match = re.match(r"kdtool\s*\[([^\]]*)\]", requirement, re.IGNORECASE)
        extras = match[1].split(",") if match else ()
        numbers = (re.fullmatch(r"contract[-_.]+(\d+)", extra.strip(), re.IGNORECASE) for extra in extras)
        found.update(int(number[1]) for number in numbers if number)
    return frozenset(found)


def refusal(distribution: Distribution) -> str:
    """Say why a distribution's plugins cannot be used with this core, and what to do; "" if they can."""
    missing = sorted(contracts_of(distribution) - CONTRACTS)
    if not missing:
        return ""
    name = distribution.name
    remedy = f"get a newer {name}: pip install --upgrade {name}"
    if missing[-1] > max(CONTRACTS):
        remedy = "get a newer kdtool: pip install --upgrade kdtool"
    wanted, given = _numbers(missing), _numbers(sorted(CONTRACTS))
    return f"{name} {distribution.version} was written for {wanted}, but this kdtool gives {given}; {remedy}"


def _numbers(numbers: list[int]) -> str:
    return f"contract{'s' if len(numbers) > 1 else ''} {' and '.join(map(str, numbers))}"
