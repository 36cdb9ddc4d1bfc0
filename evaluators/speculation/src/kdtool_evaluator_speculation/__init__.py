"""The evaluator `speculation`: how much a model helps its teacher as the draft of speculative decoding.

The engine calls it once with all subjects; `kdtool_streaming` generates.
"""

from __future__ import annotations

from kdtool_evaluator_speculation._evaluator import SpeculationEvaluator

__all__ = ["SpeculationEvaluator"]
