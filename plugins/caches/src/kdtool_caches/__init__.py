"""Signals recorded once: exact ones from stored states of the teacher, or a few tokens of its distribution.

Recipes call the caches `states`, `sampled` and `top-k`. `States` keeps final states (`_state_targets`), and the trainer
recomputes the teacher's logits from them, chunk by chunk: nothing is rounded and nothing is sampled. The other two are in
`_token_caches`: `_sampling` has plain functions for any training loop, `_token_targets` selects the tokens to
record, `_recalled` restores them, `_codec` encodes them as bytes. The files are `kdtool_torch`'s.
"""

from __future__ import annotations

from kdtool_caches._states import States
from kdtool_caches._token_caches import Sampled, TopK

__all__ = ["Sampled", "States", "TopK"]
