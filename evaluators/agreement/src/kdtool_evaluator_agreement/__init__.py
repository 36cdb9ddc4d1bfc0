"""The evaluator `agreement`: how closely students and controls follow their teacher on held-out documents.

The engine measures the teacher first, whose final states are kept, then each subject with them.
"""

from __future__ import annotations

from kdtool_evaluator_agreement._evaluator import Agreement

__all__ = ["Agreement"]
