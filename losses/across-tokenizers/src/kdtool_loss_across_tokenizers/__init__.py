"""Losses for teachers that do not read the student's tokens, and for those that do.

Recipes name the classes: `uld` compares distributions over the next token by their sorted probabilities, `projected-kl` over
classes of tokens that both vocabularies have in common, and `span-likelihood` how likely both sides find the same stretches
of bytes. The plain functions (`sorted_distance`, `projected_kl`, `span_divergence`) serve any training loop. Importing this
does not import torch; which positions belong together is in a private module, chunks of logits are `kdtool_torch`'s. Means,
weights and powers of T are the trainer's.
"""

from __future__ import annotations

from kdtool_loss_across_tokenizers._losses import ProjectedKL, SpanLikelihood, UniversalLogitDistillation
from kdtool_loss_across_tokenizers._span_likelihoods import meeting_points, span_divergence
from kdtool_loss_across_tokenizers._vocabularies import Classes, common_classes, projected_kl, sorted_distance

__all__ = [
    "Classes",
    "ProjectedKL",
    "SpanLikelihood",
    "UniversalLogitDistillation",
    "common_classes",
    "meeting_points",
    "projected_kl",
    "sorted_distance",
    "span_divergence",
]
