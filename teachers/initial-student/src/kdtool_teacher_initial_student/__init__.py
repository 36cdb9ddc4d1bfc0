"""Teachers that are the student itself, frozen as it was before a phase of the run.

`InitialStudent` (`initial-student`) is this student. `Feedback` (`feedback`) also reads the errors of the programs that the
student writes.
"""

from __future__ import annotations

from kdtool_teacher_initial_student._teachers import Feedback, InitialStudent

__all__ = ["Feedback", "InitialStudent"]
