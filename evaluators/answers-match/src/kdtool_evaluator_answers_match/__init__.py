"""The evaluator `answers-match`: questions of a file, and how often a subject answers them as expected.

The engine calls it once per subject. `kdtool_measuring` asks for answers, and a killed run asks for each only once.
"""

from __future__ import annotations

from kdtool_evaluator_answers_match._evaluator import AnswersMatch

__all__ = ["AnswersMatch"]
