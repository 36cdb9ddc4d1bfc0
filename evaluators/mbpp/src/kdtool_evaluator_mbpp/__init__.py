"""MBPP, Mostly Basic Python Problems (Austin et al. 2021, arXiv 2108.07732), and MBPP+ (Liu et al. 2023, arXiv 2305.01210).

`MbppCorpus` is the corpus that recipes call `mbpp`, and `MbppEvaluator` the evaluator of that name. The problems are files,
in the two forms in which they were published, or come from the Hub; those of MBPP+ are a file of its authors.
"""

from __future__ import annotations

from kdtool_evaluator_mbpp._corpus import MbppCorpus
from kdtool_evaluator_mbpp._evaluator import MbppEvaluator

__all__ = ["MbppCorpus", "MbppEvaluator"]
