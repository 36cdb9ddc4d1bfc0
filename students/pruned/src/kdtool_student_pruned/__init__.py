"""Student plugin `pruned`: a teacher made smaller, in layers, heads, hidden size and feed-forward size.

`Pruned` is the student. `_anatomy` knows what a teacher is made of, `_wanted` and `_solve` find the shape before weights
load, `_importance` measures on calibration text, `_choice` decides what stays, `_cut` and `_configuration` build it.
"""

from __future__ import annotations

from kdtool_student_pruned._student import Pruned

__all__ = ["Pruned"]
