"""Teacher plugin `routed`: several teachers as one. A column of the text decides which of them teaches a document."""

from __future__ import annotations

from kdtool_teacher_routed._teacher import Routed

__all__ = ["Routed"]
