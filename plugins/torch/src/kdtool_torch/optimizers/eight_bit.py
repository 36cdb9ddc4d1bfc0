"""AdamW of bitsandbytes, with a state that checkpoints can store. Imports bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.optim.adamw import AdamW8bit


class EightBitAdamW(AdamW8bit):
    """Tensors of fewer than 4,096 numbers keep their averages in float32."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, betas=betas)  # type: ignore[no-untyped-call]

    def state_dict(self) -> dict[str, Any]:
        """Return the state as any other optimizer does; bitsandbytes nests its tensors to hide them from FSDP1."""
        return torch.optim.Optimizer.state_dict(self)
