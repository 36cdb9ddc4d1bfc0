"""Student plugin `pruned`: a teacher made smaller, in layers, heads, hidden size and feed-forward size.

`Pruned` is the student. It finds the shape before weights load, measures importance on calibration text, chooses the units
that stay, and builds the smaller model.
"""

from __future__ import annotations

from kdtool_student_pruned._student import Pruned

__all__ = ["Pruned"]
