"""Teacher plugin `routed`: several teachers as one. A column of the text decides which of them teaches a document.

`Routed` finds each document's teacher (`_values` checks that there is one), asks each teacher about its rows, and joins
their signals (`_join`).
"""

from __future__ import annotations

from kdtool_teacher_routed._teacher import Routed

__all__ = ["Routed"]
