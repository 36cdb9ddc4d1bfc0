"""The evaluator `codexglue`: CodeXGLUE's tasks (Lu et al. 2021, arXiv 2102.04664) on files that the user has.

The engine calls it once per subject. In line completion a subject writes text (`_lines`); in token completion its
predictions are compared (`_tokens`). Scores are plain functions, for use elsewhere.
"""

from __future__ import annotations

from kdtool_evaluator_codexglue._evaluator import CodeXGlue

__all__ = ["CodeXGlue"]
