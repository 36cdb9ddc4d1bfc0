"""Teacher plugin `claude`: Anthropic's models through the Messages API, paid within a budget.

`Claude` is the teacher. The SDK loads when something is asked.
"""

from __future__ import annotations

from kdtool_teacher_claude._teacher import Claude

__all__ = ["Claude"]
