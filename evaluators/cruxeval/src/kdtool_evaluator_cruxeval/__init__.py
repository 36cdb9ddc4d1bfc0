"""CRUXEval (Gu et al. 2024, arXiv 2401.03065): does a model know what code does?

`CRUXEval` is the evaluator that recipes call `cruxeval`. The problems are a file of its authors. `kdtool_programs` asks for
answers, runs and scores them.
"""

from __future__ import annotations

from kdtool_evaluator_cruxeval._evaluator import CRUXEval

__all__ = ["CRUXEval"]
