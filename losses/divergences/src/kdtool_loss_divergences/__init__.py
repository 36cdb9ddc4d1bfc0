"""Divergences between teacher's and student's next-token distributions.

Recipes name the classes: `forward-kl`, `reverse-kl`, `jsd`, `skew-kl`, `skew-reverse-kl`, `contrastive`, `adaptive-kl`,
`tvd`. The plain functions (`forward_kl`, `sampled_forward_kl`, `top_k_forward_kl`, `reverse_kl`, …) serve any training loop;
with `_gradient` at the end of its name most give gradients too, without autograd. Only methods of tensors are used, so
the import costs nothing. The trainer does masking, means, and the factor T² (Hinton et al., arXiv 1503.02531), T for `tvd`.
"""

from __future__ import annotations

from kdtool_loss_divergences._bounded import (
    contrastive,
    jensen_shannon,
    jensen_shannon_gradient,
    skew_kl,
    skew_kl_gradient,
    skew_reverse_kl,
    skew_reverse_kl_gradient,
    total_variation,
    total_variation_gradient,
)
from kdtool_loss_divergences._kl import (
    Support,
    adaptive_kl,
    forward_kl,
    forward_kl_gradient,
    reverse_kl,
    reverse_kl_gradient,
    sampled_forward_kl,
    sampled_forward_kl_gradient,
    support_from_chosen,
    support_from_logits,
    support_reverse_kl,
    support_reverse_kl_gradient,
    top_k_forward_kl,
    top_k_forward_kl_gradient,
)
from kdtool_loss_divergences._losses import (
    AdaptiveKL,
    Contrastive,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
)

__all__ = [
    "AdaptiveKL",
    "Contrastive",
    "ForwardKL",
    "JensenShannon",
    "ReverseKL",
    "SkewKL",
    "SkewReverseKL",
    "Support",
    "TotalVariation",
    "adaptive_kl",
    "contrastive",
    "forward_kl",
    "forward_kl_gradient",
    "jensen_shannon",
    "jensen_shannon_gradient",
    "reverse_kl",
    "reverse_kl_gradient",
    "sampled_forward_kl",
    "sampled_forward_kl_gradient",
    "skew_kl",
    "skew_kl_gradient",
    "skew_reverse_kl",
    "skew_reverse_kl_gradient",
    "support_from_chosen",
    "support_from_logits",
    "support_reverse_kl",
    "support_reverse_kl_gradient",
    "top_k_forward_kl",
    "top_k_forward_kl_gradient",
    "total_variation",
    "total_variation_gradient",
]
