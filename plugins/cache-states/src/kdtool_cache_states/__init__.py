"""Exact signals from stored states of the teacher.

`States` is the cache that recipes call `states`; what it keeps is in `_targets`, the files are `kdtool_torch`'. The trainer
multiplies the teacher's logits out of the recalled states, chunk by chunk: nothing is rounded and nothing is sampled.
"""

from __future__ import annotations

from kdtool_cache_states._cache import States

__all__ = ["States"]
