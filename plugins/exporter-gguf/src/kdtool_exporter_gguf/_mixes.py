"""Names of the types of files."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["QUANTISED", "WEIGHTED", "Mix", "QuantisedMix"]

QuantisedMix = Literal["q4_k_m", "q5_k_m", "q2_k", "q6_k", "q3_k_m", "q4_0", "iq4_xs", "q8_0"]
"""Types with fewer than 16 bits a weight."""
Mix = Literal[QuantisedMix, "f16", "bf16", "f32"]
"""Names of file types, as in `llama-quantize`."""
QUANTISED: frozenset[str] = frozenset(get_args(QuantisedMix))
WEIGHTED = QUANTISED - {"q8_0"}
"""Types that an importance matrix changes."""
