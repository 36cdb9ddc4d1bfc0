"""Python values as tagged JSON, and back. Never pickle: reading a value runs no code of the one who wrote it.

Scalars and lists stand for themselves; all else is an object with one key, its tag. Subclasses of plain types become their
base, so that no overridden `__eq__` comes along. `opaque` names values without a plain form.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

Each = Callable[[Any], Any]

_LARGEST_NUMBER = 2**63
_TYPES = (
    int,
    float,
    str,
    bool,
    list,
    tuple,
    dict,
    set,
    frozenset,
    bytes,
    bytearray,
    complex,
    range,
    object,
    reversed,
    zip,
)
_FUNCTIONS = (abs, all, any, chr, divmod, len, max, min, ord, pow, round, sorted, sum)
_BY_NAME: dict[str, Any] = {
    **{kind.__name__: kind for kind in (*_TYPES, *_FUNCTIONS, type, type(None))},
    "Ellipsis": ...,
    "NotImplemented": NotImplemented,
}
"""Builtins that go over by name, in both directions: none of them reaches frames, files or modules."""
_NAMES = {id(value): name for name, value in _BY_NAME.items()}

_VIEWS: dict[type, Each] = {
    type({}.keys()): lambda items: dict.fromkeys(items).keys(),
    type({}.values()): lambda items: dict(enumerate(items)).values(),
    type({}.items()): lambda items: dict(items).items(),
}
"""Views of dictionaries, with functions that make one of its items: they equal sets, and are false if empty."""
_KINDS = (tuple, set, frozenset, deque)
_ITEMS: dict[str, Any] = {kind.__name__: make for kind, make in (*zip(_KINDS, _KINDS, strict=True), *_VIEWS.items())}
_PAIRS: dict[str, Any] = {kind.__name__: kind for kind in (dict, OrderedDict)}
_WHOLE: dict[str, tuple[type, Each, Each]] = {
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "bytearray": (bytearray, bytearray.hex, bytearray.fromhex),
    "complex": (complex, lambda value: [value.real, value.imag], lambda plain: complex(*plain)),
    "range": (
        range,
        lambda value: [hex(value.start), hex(value.stop), hex(value.step)],
        lambda plain: range(*(int(number, 16) for number in plain)),
    ),
    "slice": (slice, lambda value: [value.start, value.stop, value.step], lambda plain: slice(*plain)),
    "Decimal": (Decimal, str, Decimal),
    "Fraction": (Fraction, str, Fraction),
    "datetime": (dt.datetime, dt.datetime.isoformat, dt.datetime.fromisoformat),
    "date": (dt.date, dt.date.isoformat, dt.date.fromisoformat),
    "time": (dt.time, dt.time.isoformat, dt.time.fromisoformat),
    "timedelta": (
        dt.timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda plain: dt.timedelta(*plain),
    ),
}
"""A tag, the type that it stands for, and what takes a value there and back."""
_TAGS: dict[type, str] = {
    Counter: "Counter",
    **{kind: kind.__name__ for kind in (*_KINDS, *_PAIRS.values())},
    **{kind: tag for tag, (kind, _, _) in _WHOLE.items()},
}
_BASES = (int, float, str, list, *_TAGS)
_TAGS |= {kind: kind.__name__ for kind in _VIEWS}


_THEMSELVES = frozenset({str, bool, float, type(None)})
_SCALARS = _THEMSELVES | {int}


_SPECIAL: dict[str, Callable[[Any, Each], Any]] = {
    "int": lambda plain, _: int(plain, 16),
    "builtin": lambda plain, _: _BY_NAME[plain],
    "Counter": lambda plain, each: Counter({each(key): each(item) for key, item in plain}),
}


def to_plain(value: Any, opaque: Callable[[Any], Any]) -> Any:
    """Return a value in a form that JSON can represent; `opaque` returns a tagged form of objects that are not plain.

    It may share lists with the value: write it before anything changes.
    """

    def items(values: list[Any]) -> list[Any]:
        kinds = set(map(type, values))  # millions of numbers are not looked at one by one
        if kinds <= _THEMSELVES or (kinds == {int} and -_LARGEST_NUMBER < min(values) <= max(values) < _LARGEST_NUMBER):
            return values
        return [each(item) for item in values]

    def each(value: Any) -> Any:
        kind = type(value)
        if value is None or kind is str or kind is bool or kind is float:
            return value
        if kind is int:
            return value if -_LARGEST_NUMBER < value < _LARGEST_NUMBER else {"int": hex(value)}
        if kind is list:
            return items(value)
        if kind in _TAGS:
            tag = _TAGS[kind]
            if tag in _ITEMS:
                return {tag: items(list(value))}
            if tag in _WHOLE:
                return {tag: _WHOLE[tag][1](value)}
            return {tag: [[each(key), each(item)] for key, item in dict.items(value)]}
        if id(value) in _NAMES:
            return {"builtin": _NAMES[id(value)]}
        for base in _BASES:
            if issubclass(kind, base):
                return each(base(value))
        if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():  # np.int64 and the like
            return each(value.item())
        return opaque(value)

    return each(value)


def from_plain(plain: Any, opaque: Callable[[str, Any], Any]) -> Any:
    """Return the value of a plain form; `opaque` resolves tags that are not of plain values."""

    def items(plain: list[Any]) -> list[Any]:
        return plain if _SCALARS.issuperset(map(type, plain)) else [each(item) for item in plain]

    def each(plain: Any) -> Any:
        kind = type(plain)
        if kind is list:
            return items(plain)
        if kind is dict:
            ((tag, content),) = plain.items()
            if tag in _ITEMS:
                return _ITEMS[tag](items(content))
            if tag in _PAIRS:
                return _PAIRS[tag]([(each(key), each(item)) for key, item in content])
            if tag in _WHOLE:
                return _WHOLE[tag][2](content)
            return _SPECIAL[tag](content, each) if tag in _SPECIAL else opaque(tag, content)
        return plain

    return each(plain)
