"""A program as models write it, run once before the keeper is born.

A forked process copies each page of memory that it is the first to write to. Using the compiler here sets up its data
once, and not in every candidate: that saves a third of a candidate's copies.
"""

from __future__ import annotations

__all__ = ["rehearse"]

_PROGRAM = '''
import math
from typing import Dict, List, Optional


class Counter:
    total: int = 0

    def add(self, value=None):
        self.total += 1 if value is None else value


def closest(numbers: List[float], threshold: float = 0.5) -> Optional[float]:
    """Return the first number that is close to another.

    >>> closest([1.0, 2.0, 2.25])
    2.0
    """
    counts: Dict[str, int] = {key: at for at, key in enumerate("ab") if at % 2 == 0}
    for at, number in enumerate(numbers):
        for other in numbers[at + 1 :]:
            if abs(number - other) < threshold and not math.isnan(other):
                return number
    try:
        counts["b"] -= sum(x * x for x in range(3))
    except KeyError:
        pass
    while len(counts) < 2:
        counts[f"{threshold:.2f}"] = max(1, -1)
    return None if sorted(counts, key=lambda key: -len(key))[::-1] else threshold


closest([1.0, 5.0])
Counter().add()
'''


def rehearse() -> None:
    """Compile and run it."""
    code = compile(_PROGRAM, "<rehearsal>", "exec", dont_inherit=True)
    exec(code, {"__name__": "rehearsal"})  # noqa: S102 (our own)
