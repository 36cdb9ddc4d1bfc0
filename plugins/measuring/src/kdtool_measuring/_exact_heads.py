"""Predicted memory of heads in float32, which evaluators use for the logits that they report."""

from __future__ import annotations

from collections.abc import Sequence

import kdtool

__all__ = ["bytes_of_exact_heads"]


def bytes_of_exact_heads(ahead: kdtool.RunForecast, teachers: Sequence[str] = ()) -> int:
    """Return the bytes of float32 copies of the student's head and of the largest teacher's head.

    Evaluators project logits in float32. A float32 head is not copied.
    """
    student = ahead.models[ahead.student]
    copied = [student] if ahead.student_bytes < 4 * student.parameters else []
    described = [ahead.models[name] for name in teachers if name in ahead.models]
    copied += sorted((facts for facts in described if facts.dtype != "float32"), key=_head_bytes)[-1:]
    return sum(map(_head_bytes, copied))


def _head_bytes(facts: kdtool.ModelFacts) -> int:
    return 4 * facts.vocabulary * facts.hidden
