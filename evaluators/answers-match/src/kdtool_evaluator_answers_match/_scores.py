"""Comparison of an answer with an expected one."""

from __future__ import annotations

import re

from kdtool_evaluator_answers_match._questions import Question

__all__ = ["score"]


def score(question: Question, answer: str) -> float:
    """Return the best score, from 0 to 1, of an answer against the expected ones; not for programs."""
    return max(_score(question.metric, answer, expected) for expected in question.expected)


def _score(metric: str, answer: str, expected: str) -> float:
    if metric == "contains":
        return float(expected in answer)
    if metric == "regex":
        return float(re.search(expected, answer) is not None)
    if metric == "edit-similarity":
        from rapidfuzz import fuzz

        return float(fuzz.ratio(answer.strip(), expected.strip())) / 100
    return float(answer.strip() == expected.strip())
