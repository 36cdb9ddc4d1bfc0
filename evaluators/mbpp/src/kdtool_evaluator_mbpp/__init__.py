"""MBPP, Mostly Basic Python Problems (Austin et al. 2021, arXiv 2108.07732), and MBPP+ (Liu et al. 2023, arXiv 2305.01210).

`Mbpp` is the evaluator that recipes call `mbpp`. The problems are read by the library kdtool-datasets; those of MBPP+
are a file of its authors. `kdtool_programs` asks for programs, runs and scores them.
"""

from __future__ import annotations

from kdtool_evaluator_mbpp._evaluator import Mbpp

__all__ = ["Mbpp"]
