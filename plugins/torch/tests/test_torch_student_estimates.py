"""Estimates that students share."""

from __future__ import annotations

import kdtool
import pytest
import torch
from kdtool_torch import student_estimates


@pytest.mark.parametrize(
    ("dtype", "computed", "wider"),
    [
        ("bfloat16", torch.float32, 2),
        ("bfloat16", torch.bfloat16, 0),
        ("float16", torch.bfloat16, 2),
        ("float32", torch.float32, 0),
        ("float32", torch.bfloat16, 0),
    ],
)
def test_a_student_is_measured_in_the_dtype_that_the_device_computes_in(
    dtype: str, computed: torch.dtype, wider: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdtool_torch.estimates.compute_dtype", lambda *_: computed)
    facts = kdtool.ModelFacts(1000, 1000, 2, 8, 2, 2, 16, 50, 64, dtype, True, "t")
    ahead = kdtool.RunForecast({"student": facts}, "student")
    found = [one for one in student_estimates(ahead) if one.part == "measured student in float32"]
    assert sum(one.compute_bytes for one in found) == wider * facts.parameters
    assert all(one.stages == ("scores",) for one in found)
