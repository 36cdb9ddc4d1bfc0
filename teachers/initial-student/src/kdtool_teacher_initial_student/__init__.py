"""Teachers that are the student itself, frozen as it was before a phase of the run.

`InitialStudent` (`initial-student`) is this student. `Feedback` (`feedback`) also reads the errors of the programs that the
student writes: `_attempts` finds them in a batch and runs them, and `_contexts` puts their errors before their prompts.
"""

from __future__ import annotations

from kdtool_teacher_initial_student._feedback import Feedback
from kdtool_teacher_initial_student._initial_student import InitialStudent

__all__ = ["Feedback", "InitialStudent"]
