"""Tests that compare a function with a reference on many inputs, as EvalPlus does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["against_reference"]

_TEMPLATE = """\
from copy import deepcopy as _copied

inf, nan = float("inf"), float("nan")
_inputs = {inputs}
_space = {{"__name__": "reference"}}
exec({reference}, _space)


def _floats(value):
    return type(value) is float or (type(value) in (list, tuple) and value and all(type(one) is float for one in value))


def _close(found, expected, most):
    if type(expected) in (list, tuple):
        return len(found) == len(expected) and all(_close(*pair, most) for pair in zip(found, expected))
    return found == expected or abs(found - expected) <= most + 1e-7 * abs(expected)


def _same(found, expected, most):
    if found == expected:
        return True
    most = most or (1e-6 if _floats(expected) else 0)
    return bool(most) and type(found) is type(expected) and _close(found, expected, most)


for _number, _given in enumerate(_inputs):
    _expected = _space[{name!r}](*_copied(_given))
    _found = {name}(*_copied(_given))
    assert _same(_found, _expected, {tolerance!r}), f"input {{_number}} gives another value than the reference"
"""


def against_reference(reference: str, name: str, inputs: Sequence[Sequence[Any]], tolerance: float = 0.0) -> str:
    """Return tests for a `Module`: `name` must give what the reference's function of that name gives for all inputs.

    Equal is as in EvalPlus 0.3: equal values, or, where the reference gives floats or a tolerance is set, the same type and
    |found - expected| <= tolerance + 1e-7 |expected|, with 1e-6 as the tolerance of floats. A task whose answer is not
    unique needs tests of its own.

    Args:
        reference: the reference's whole module; it runs in the tests' process.
        name: the function.
        inputs: arguments of each call, made of literals; infinities and NaN are allowed.
        tolerance: absolute.
    """
    given = repr([list(arguments) for arguments in inputs])
    return _TEMPLATE.format(inputs=given, reference=repr(reference), name=name, tolerance=tolerance)
