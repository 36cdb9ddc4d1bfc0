"""The evaluator `agreement`: how closely students and controls follow their teacher on held-out documents.

The engine calls it once with all subjects, so that the teacher runs once. `_evaluator` chooses the subjects to compare,
`_states` computes and keeps final states, `_divergence` compares two models' states.
"""

from __future__ import annotations

from kdtool_evaluator_agreement._evaluator import Agreement

__all__ = ["Agreement"]
