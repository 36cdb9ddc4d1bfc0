"""Predicted memory of heads in float32, which evaluators use for the logits that they report."""

from __future__ import annotations

import kdtool

__all__ = ["bytes_of_exact_heads"]


def bytes_of_exact_heads(ahead: kdtool.RunForecast) -> int:
    """Return the bytes of a float32 copy of the student's head, 0 if it is in float32 already.

    Evaluators project logits in float32.
    """
    student = ahead.models[ahead.student]
    return 4 * student.vocabulary * student.hidden if ahead.student_bytes < 4 * student.parameters else 0
