"""Memory of heads in float32: those in half precision are copied."""

from __future__ import annotations

from dataclasses import replace

import kdtool
from kdtool_measuring import bytes_of_exact_heads

FACTS = kdtool.ModelFacts(1000, 1000, 2, 32, 4, 2, 64, 257, 256, "float32", tied=True, tokenizer_fingerprint="bytes")


def test_a_head_in_half_precision_is_copied() -> None:
    half = replace(FACTS, dtype="bfloat16")
    assert bytes_of_exact_heads(kdtool.RunForecast({"student": FACTS}, "student")) == 0
    assert bytes_of_exact_heads(kdtool.RunForecast({"student": half}, "student")) == 4 * 257 * 32
