"""Memory of heads in float32: those in half precision are copied."""

from __future__ import annotations

from dataclasses import replace

import kdtool
from kdtool_measuring import bytes_of_exact_heads

FACTS = kdtool.ModelFacts(1000, 1000, 2, 32, 4, 2, 64, 257, 256, "float32", tied=True, tokenizer_fingerprint="bytes")


def test_heads_in_half_precision_are_copied() -> None:
    half, wide = replace(FACTS, dtype="bfloat16"), replace(FACTS, dtype="bfloat16", hidden=64)
    models = {"student": half, "a": half, "b": wide, "c": replace(wide, dtype="float32", hidden=128)}
    assert bytes_of_exact_heads(kdtool.RunForecast({"student": FACTS}, "student")) == 0
    assert bytes_of_exact_heads(kdtool.RunForecast(models, "student")) == 4 * 257 * 32
    assert bytes_of_exact_heads(kdtool.RunForecast(models, "student"), ("a", "b", "c", "d")) == 4 * 257 * (32 + 64)
