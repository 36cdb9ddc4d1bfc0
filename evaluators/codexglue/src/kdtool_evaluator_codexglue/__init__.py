"""The evaluator `codexglue`: CodeXGLUE's tasks (Lu et al. 2021, arXiv 2102.04664) on files that the user has.

The engine calls it once a subject. `_lines`, `_summaries` and `_programs` each make a task of questions and metrics, which
`_asking` asks and scores; `_accuracy` predicts tokens (`_predictions`) and compares them (`_tokens`). Scores are plain
functions, for use elsewhere.
"""

from __future__ import annotations

from kdtool_evaluator_codexglue._evaluator import CodeXGlue

__all__ = ["CodeXGlue"]
