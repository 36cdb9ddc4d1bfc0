"""Signals of a few bytes a token: tokens sampled from the teacher's distribution, or its likeliest ones.

Recipes call the caches `sampled` and `top-k`. `_sampling` has plain functions for any training loop, `_targets`
what is recorded, `_recalled` the way back, `_codec` the bytes in between; the files are `kdtool_torch`'.
"""

from __future__ import annotations

from kdtool_cache_sampled._caches import Sampled, TopK

__all__ = ["Sampled", "TopK"]
