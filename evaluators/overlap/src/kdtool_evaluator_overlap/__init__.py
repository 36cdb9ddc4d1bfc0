"""Overlap of texts: benchmarks in the training text, and training text in what models write.

- `Decontamination`, the filter `decontamination` of recipes: rejects examples that contain a benchmark's problem
- `Contamination`, the evaluator `contamination`: the share of problems that the training text contains
- `Memorisation`, the evaluator `memorisation`: how much of its training text a model repeats

All compare n-grams of words (`_ngrams`). Benchmarks are the problems of the recipe's other evaluators
(`kdtool.Evaluator.kdtool_problems`); no benchmark is named here.
"""

from __future__ import annotations

from kdtool_evaluator_overlap._contamination import Contamination, Decontamination
from kdtool_evaluator_overlap._memorisation import Memorisation

__all__ = ["Contamination", "Decontamination", "Memorisation"]
