"""The screen `judge`: a teacher scores each example that all other screens keep.

`_screen` asks, `_requests` makes requests of examples, `_verdicts` reads scores and records them with their provenance.
"""

from __future__ import annotations

from kdtool_screen_judge._screen import JudgeScreen

__all__ = ["JudgeScreen"]
