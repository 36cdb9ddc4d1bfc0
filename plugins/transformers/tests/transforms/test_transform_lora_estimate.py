"""Memory that rewriting a student is said to take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kdtool
import pytest
from kdtool_testing import make_run
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import outline_of
from kdtool_transformers.transforms import Lora, Qlora


@pytest.mark.parametrize("kind", [Lora, Qlora])
@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float32", 4)])
def test_putting_in_and_merging_have_moments_of_their_own(
    kind: type[Lora], dtype: str, size: int, tmp_path: Path
) -> None:
    config = tiny_model(hidden_size=64, intermediate_size=96).model.config
    student = outline_of(config)
    bare = student.facts
    models = {"student": replace(bare, dtype=dtype)}
    transform, run = kind(kind.Config.model_validate({"r": 4})), make_run(tmp_path)
    outline = next(transform.kdtool_transform(student, run))
    phase = kdtool.PlannedPhase("train", "phases/train", "student", 4, (), 32, outline, outline.facts)
    ahead = kdtool.RunForecast(models=models, student="student", phases=(phase,), phase=phase)
    found = list(transform.kdtool_estimate(run, ahead))
    for moment, held in (("adapters put in", "host_bytes"), ("adapters merged", "compute_bytes")):
        parts = {one.part: getattr(one, held) for one in found if one.stages == (f"phases/train: {moment}",)}
        whole = size * bare.parameters
        assert parts["weights"] == whole if kind is Lora or held == "compute_bytes" else parts["weights"] < whole
        assert parts["adapters and a layer"] == 4 * outline.facts.trainable + 8 * 64 * 96
