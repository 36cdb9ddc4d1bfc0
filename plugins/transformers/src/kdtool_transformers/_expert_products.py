"""Products of experts in the precision of autocast, which does not know grouped products (issue 174763 of PyTorch).

Without this, experts that learn would be multiplied in float32, since their weights are. Importing this module replaces
transformers' grouped products for all models of the process; without autocast nothing changes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

__all__ = ["compute_experts"]


def compute_experts(experts: nn.Module, hidden: Tensor, *routing: Tensor) -> Tensor:
    """Return the experts' mixture for each token, computed by grouped products in autocast's dtype if that is on.

    Args:
        experts: a module of transformers that holds the weights of all experts of a layer.
        hidden: [N, H].
        routing: each token's experts and their shares, [N, K], as the module's `forward` takes them.

    Returns:
        [N, H], of the dtype of `hidden`.
    """
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        wider = {name: weight for name, weight in experts.named_parameters() if weight.dtype == torch.float32 != dtype}
        if wider:  # the call comes back to this function, with weights in `dtype`
            cast = {name: weight.to(dtype) for name, weight in wider.items()}
            result: Tensor = functional_call(experts, cast, (hidden, *routing))
            return result
    mixed: Tensor = grouped_mm_experts_forward(experts, hidden, *routing)
    return mixed


ALL_EXPERTS_FUNCTIONS["grouped_mm"] = compute_experts
