"""Names of the types of files."""

from __future__ import annotations

from typing import Literal

__all__ = ["QUANTISED", "WEIGHTED", "Mix"]

Mix = Literal["q4_k_m", "q5_k_m", "q2_k", "q6_k", "q3_k_m", "q4_0", "iq4_xs", "q8_0", "f16", "bf16", "f32"]
"""Names of file types, as in `llama-quantize`."""
WEIGHTED = frozenset({"q4_k_m", "q5_k_m", "q2_k", "q6_k", "q3_k_m", "q4_0", "iq4_xs"})
"""Types that an importance matrix changes."""
QUANTISED = WEIGHTED | {"q8_0"}
