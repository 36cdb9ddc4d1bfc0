"""Text that stands where it should not: benchmarks in the training text, training text in what models write.

- `Decontamination`, a screen that recipes call `decontamination`: rejects examples that hold a benchmark's problem
- `Contamination`, an evaluator that recipes call `contamination`: which problems the training text holds
- `Memorisation`, an evaluator that recipes call `memorisation`: how much a model repeats of its training text

All compare n-grams of words (`_words`, `_ngrams`). Benchmarks are the problems of the recipe's other evaluators
(`kdtool.Evaluator.kdtool_problems`), known to nobody here by name.
"""

from __future__ import annotations

from kdtool_overlap._contamination import Contamination
from kdtool_overlap._decontamination import Decontamination
from kdtool_overlap._memorisation import Memorisation

__all__ = ["Contamination", "Decontamination", "Memorisation"]
