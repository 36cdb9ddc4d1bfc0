"""Resource limits of EvalPlus."""

from __future__ import annotations

from kdtool_programs._problem import Limits

__all__ = ["EVALPLUS"]

EVALPLUS = Limits(90.0, 4 * 2**30)
"""EvalPlus allows 60 s for all inputs of a problem; the tests here also compute the expected outputs in this time."""
