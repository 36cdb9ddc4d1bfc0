"""Values of the column that routes documents: each one's teacher, and the values that do not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import kdtool

__all__ = ["OTHERS", "Values", "value_of"]

OTHERS = "*"
"""Stands for every value that no teacher lists."""
_FIELDS = ("language", "source", "licence")
_SHOWN = 10


def value_of(example: kdtool.Example, column: str) -> str:
    """Return an example's value of a column: a field, or an entry of `meta`; "" if it has none."""
    return str(getattr(example, column)) if column in _FIELDS else example.meta.get(column, "")


class Values:
    """The values of one pass over the text, and what is wrong with them.

    Args:
        column: the column.
        teachers: the values that each teacher teaches, by its name.
    """

    def __init__(self, column: str, teachers: Mapping[str, Sequence[str]]) -> None:
        self._column, self._teachers = column, teachers
        self._numbers = {value: at for at, values in enumerate(teachers.values(), 1) for value in values}
        self._found: Counter[str] = Counter()
        self._columns: set[str] = set()

    def number(self, example: kdtool.Example) -> int:
        """Return the number of the example's teacher, from 1; 0 if its value has none."""
        value = value_of(example, self._column)
        self._found[value] += 1
        self._columns |= example.meta.keys()
        return self._numbers.get(value, self._numbers.get(OTHERS, 0))

    def problems(self) -> Iterator[str]:
        """Yield what is wrong, with its key: an unknown column, values without teacher, values that no document has."""
        if not self._found:  # no text of a phase that learns from this teacher
            return
        if not any(self._found):
            there = ", ".join((*_FIELDS, *sorted(self._columns - {*_FIELDS})))
            yield f"column: no document has a value of {self._column!r}; name one of {there}"
            return
        lost = {value: count for value, count in self._found.most_common() if value not in self._numbers}
        if lost and OTHERS not in self._numbers:
            shown = ", ".join(f"{value!r} ({count:,} documents)" for value, count in [*lost.items()][:_SHOWN])
            rest = f" and {len(lost) - _SHOWN:,} more" if len(lost) > _SHOWN else ""
            yield (
                f"teachers: no teacher has the values {shown}{rest} of {self._column!r}; add them to a teacher's list, or "
                f"give one teacher {OTHERS!r}, which stands for all others"
            )
        for name, values in self._teachers.items():
            if unknown := [value for value in values if value not in self._found and value != OTHERS]:
                known = ", ".join(repr(value) for value, _ in self._found.most_common(_SHOWN))
                yield (
                    f"teachers.{name}: no document has the values {', '.join(map(repr, unknown))} of {self._column!r}; "
                    f"there are {known}"
                )
