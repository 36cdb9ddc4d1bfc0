"""What the tests of EvalPlus need."""

from __future__ import annotations

from kdtool_pass_at_k._problem import Limits

__all__ = ["ALLCLOSE", "EVALPLUS"]

EVALPLUS = Limits(90.0, 4 * 2**30)
"""EvalPlus allows 60 s for all inputs of a problem together; its tests here also find out what they expect in that time."""
ALLCLOSE = """
import sys
try:
    import numpy
except ImportError:
    import types
    def allclose(out, exp, rtol=1e-05, atol=1e-08):
        if isinstance(exp, (list, tuple)):
            return len(out) == len(exp) and all(allclose(a, b, rtol, atol) for a, b in zip(out, exp))
        return out == exp or abs(out - exp) <= atol + rtol * abs(exp)
    numpy = types.ModuleType("numpy")
    numpy.allclose, numpy.ndarray = allclose, type("ndarray", (), {})
    numpy.float64 = numpy.float32 = float
    sys.modules["numpy"] = numpy
"""
"""Helpers for tests of EvalPlus, which compare floats by numpy's `allclose` and use nothing else of it: its formula stands
in where the sandbox has no numpy."""
