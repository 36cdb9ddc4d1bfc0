"""The evaluator `line-completion`: how a model completes the lines of held-out documents.

The engine calls it once a subject. `_places` chooses the lines to complete, `_scores` compares completions with the
documents' own lines; answers, which a killed run asks for once, are `kdtool_measuring`'s.
"""

from __future__ import annotations

from kdtool_evaluator_line_completion._evaluator import LineCompletion
from kdtool_evaluator_line_completion._scores import edit_similarity, exact_match

__all__ = ["LineCompletion", "edit_similarity", "exact_match"]
