"""Tests that compare a function with a reference on many inputs, as EvalPlus does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["EVALPLUS_NUMPY", "against_reference"]

_ALLCLOSE = """\
def _flat(value):
    if type(value) not in (list, tuple):
        if type(value) not in (bool, int, float, complex) or (type(value) is int and not -(2**63) <= value < 2**64):
            raise TypeError(f"{value!r} is not a number that numpy calculates with")
        return (), [value]
    parts = [_flat(one) for one in value]
    if len({shape for shape, _ in parts}) > 1:
        raise ValueError("a list of lists that differ in length")
    return (len(value), *(parts[0][0] if parts else ())), [number for _, own in parts for number in own]


def allclose(out, exp, rtol=1e-05, atol=1e-08):
    if type(out) is not type(exp):
        return False
    (shape, found), (expected_shape, expected) = _flat(out), _flat(exp)
    return shape == expected_shape and all(
        one == other or (abs(other) < float("inf") and abs(one - other) <= atol + rtol * abs(other))
        for one, other in zip(found, expected)
    )
"""
"""Source of `allclose`, numpy's function of that name under EvalPlus' rules: both values have the same type, and infinities
and NaN are close only to an equal value. Shapes are equal; numpy would broadcast."""
EVALPLUS_NUMPY = f"""\
import sys
import types

{_ALLCLOSE}

numpy = types.ModuleType("numpy")
numpy.allclose, numpy.ndarray = allclose, type("ndarray", (), {{}})
numpy.float64 = numpy.float32 = float
sys.modules["numpy"] = numpy
"""
"""Helpers for tests of EvalPlus, which compare floats by numpy's `allclose` and use nothing else of it. This module
replaces numpy on every machine, so that verdicts do not depend on installed packages. It makes the checks of EvalPlus' own
scorer, the same type and the same length, which the published tests lack."""

_TEMPLATE = """\
from copy import deepcopy as _copied

inf, nan = float("inf"), float("nan")
{allclose}
_inputs = {inputs}
_space = {{"__name__": "reference"}}
exec({reference}, _space)


def _floats(value):
    return type(value) is float or (type(value) in (list, tuple) and value and all(type(one) is float for one in value))


def _same(found, expected, most):
    if found == expected:
        return True
    most = most or (1e-6 if _floats(expected) else 0)
    return bool(most) and allclose(found, expected, 1e-7, most)


for _number, _given in enumerate(_inputs):
    _expected = _space[{name!r}](*_copied(_given))
    _found = {name}(*_copied(_given))
    assert _same(_found, _expected, {tolerance!r}), f"input {{_number}} gives another value than the reference"
"""


def against_reference(reference: str, name: str, inputs: Sequence[Sequence[Any]], tolerance: float = 0.0) -> str:
    """Return tests for a `Module`: `name` must give what the reference's function of that name gives for all inputs.

    Equal is as in EvalPlus 0.3: equal values, or, if the reference returns floats or a tolerance is set, values of the same
    type and shape with |found - expected| <= tolerance + 1e-7 |expected|, with 1e-6 as the tolerance of floats. Infinities
    and NaN are close to no other value. A task whose answer is not unique needs different tests.

    Args:
        reference: the reference's whole module; it runs in the tests' process.
        name: the function.
        inputs: arguments of each call, made of literals; infinities and NaN are allowed.
        tolerance: absolute.
    """
    given = repr([list(arguments) for arguments in inputs])
    return _TEMPLATE.format(allclose=_ALLCLOSE, inputs=given, reference=repr(reference), name=name, tolerance=tolerance)
