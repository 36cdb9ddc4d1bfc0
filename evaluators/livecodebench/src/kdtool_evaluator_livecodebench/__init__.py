"""LiveCodeBench (Jain et al. 2024, arXiv 2403.07974): problems of contests, each with the date of its contest.

`LiveCodeBench` is the evaluator that recipes call `livecodebench`. Its problems are a file. `kdtool_programs` asks for
answers, runs and scores them.
"""

from __future__ import annotations

from kdtool_evaluator_livecodebench._evaluator import LiveCodeBench

__all__ = ["LiveCodeBench"]
