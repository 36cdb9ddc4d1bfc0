"""Size and place of the adapters."""

from __future__ import annotations

from typing import Literal

import kdtool
from kdtool import Field

__all__ = ["LoraConfig"]


class LoraConfig(kdtool.Config):
    """Size and place of the adapters."""

    r: int = Field(8, ge=1)
    """Rank of the adapters."""
    alpha: int = Field(16, ge=1)
    """The adapters' product is scaled by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is zeroed while it trains."""
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Names of linear layers, such as [q_proj, v_proj], or `all-linear`: all except the head."""
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(r) instead, for large ranks (arXiv 2312.03732)."""
    keep_adapter: bool = False
    """Also write the adapter without its base model, in peft's format, to `adapter` in the phase's folder."""
