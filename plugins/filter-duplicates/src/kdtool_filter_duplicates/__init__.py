"""The filter `duplicates`: rejects exact and near-duplicates of earlier texts.

`_filter` judges examples. `_exact` remembers whole texts on disk. `_shingles` cuts texts into overlapping runs of words, and
`_near` finds the kept texts that share most of them.
"""

from __future__ import annotations

from kdtool_filter_duplicates._filter import DuplicatesFilter

__all__ = ["DuplicatesFilter"]
