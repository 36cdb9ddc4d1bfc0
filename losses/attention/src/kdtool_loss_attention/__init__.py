"""Distances between teacher's and student's attention, at labelled positions.

`AttentionMaps` is the loss that recipes call `attention`, `Relations` the one they call `relations`; `attention_distance`
and `relation_divergence` are the same for one pair of layers, as plain functions. Both look at a position and at those
before it in its own document, row by row. The trainer takes means over positions and applies weights.
"""

from __future__ import annotations

from kdtool_loss_attention._maps import AttentionMaps, attention_distance
from kdtool_loss_attention._relations import Relations, relation_divergence

__all__ = ["AttentionMaps", "Relations", "attention_distance", "relation_divergence"]
