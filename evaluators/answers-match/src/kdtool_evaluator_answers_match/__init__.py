"""The evaluator `answers-match`: questions of a file, and how often a subject answers them as expected.

The engine calls it once a subject. `_questions` reads the file, `_scores` compares answers, `_programs` runs those that are
programs. Answers, which a killed run asks for once, are `kdtool_measuring`'s.
"""

from __future__ import annotations

from kdtool_evaluator_answers_match._evaluator import AnswersMatch

__all__ = ["AnswersMatch"]
