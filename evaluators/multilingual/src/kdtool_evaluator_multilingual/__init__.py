"""HumanEval-X (Zheng et al. 2023, arXiv 2303.17568), MultiPL-E (Cassano et al. 2022, arXiv 2208.08227), and HumanEvalPack.

HumanEvalPack (Muennighoff et al. 2023, arXiv 2308.07124) is HumanEval-X with a bug in each function, for HumanEvalFix.

`Multilingual` is the evaluator that recipes call `multilingual`. The problems are files of their authors: no data come with
this package. `kdtool_programs` asks for programs, runs and scores them.
"""

from __future__ import annotations

from kdtool_evaluator_multilingual._evaluator import Multilingual

__all__ = ["Multilingual"]
