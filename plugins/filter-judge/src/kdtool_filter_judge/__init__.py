"""The filter `judge`: a teacher scores each example that all other filters keep.

`_filter` asks, `_requests` turns examples into requests, `_verdicts` reads scores and records them with their provenance.
"""

from __future__ import annotations

from kdtool_filter_judge._filter import JudgeFilter

__all__ = ["JudgeFilter"]
