"""The screen `duplicates`: no text that was there before, exactly or nearly.

`_screen` judges examples. `_exact` remembers whole texts on disk. `_shingles` cuts texts into overlapping pieces of some
words, and `_near` finds the kept texts that share most of them.
"""

from __future__ import annotations

from kdtool_screen_duplicates._screen import DuplicatesScreen

__all__ = ["DuplicatesScreen"]
