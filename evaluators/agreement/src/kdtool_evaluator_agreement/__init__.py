"""The evaluator `agreement`: how closely students and controls follow their teacher on held-out documents.

The engine measures the teacher first, whose final states are kept, then each subject with them. `_evaluator` chooses the
subjects to compare, `_states` computes and keeps final states, `_divergence` compares two models' states.
"""

from __future__ import annotations

from kdtool_evaluator_agreement._evaluator import Agreement

__all__ = ["Agreement"]
