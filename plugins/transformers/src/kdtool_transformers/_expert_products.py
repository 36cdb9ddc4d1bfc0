"""Products of experts in the precision of autocast, which does not know grouped products (issue 174763 of PyTorch).

Without this, experts that learn would be multiplied in float32, since their weights are. Importing this module replaces
transformers' grouped products for all models of the process; without autocast nothing changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
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
    seen: Any = _Cast(experts, torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else experts
    mixed: Tensor = grouped_mm_experts_forward(seen, hidden, *routing)
    return mixed


class _Cast:
    """A module of experts whose own float32 weights are in another dtype."""

    def __init__(self, experts: nn.Module, dtype: torch.dtype) -> None:
        self._experts, self._dtype = experts, dtype

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._experts, name)
        return value.to(self._dtype) if isinstance(value, Tensor) and value.dtype == torch.float32 else value


ALL_EXPERTS_FUNCTIONS["grouped_mm"] = compute_experts
