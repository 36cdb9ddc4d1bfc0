"""Parts of estimates that students on transformers share."""

from __future__ import annotations

from dataclasses import replace

import kdtool
import pytest
import torch
from kdtool_transformers import student_parts
from kdtool_transformers.testing import tiny_model


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
    monkeypatch.setattr("kdtool_torch.compute_dtype", lambda *_: computed)
    facts = replace(tiny_model().facts, dtype=dtype)
    ahead = kdtool.RunForecast({"student": facts}, "student")
    found = [one for one in student_parts(ahead) if one.part == "measured student in float32"]
    assert sum(one.compute_bytes for one in found) == wider * facts.parameters
    assert all(one.stages == ("scores",) for one in found)
