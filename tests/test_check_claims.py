"""Claims of published systems against kdtool's own numbers: what `docs/check.md` shows side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_torch.trainer import estimate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def smallcoder(recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """SmallCoder with as many tokens as its vocabulary has, trained without a teacher."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(recipe["teacher"]["model"])
    tokenizer.add_tokens([f"<|unused{number}|>" for number in range(32_000 - len(tokenizer))])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return {
        "name": "smallcoder",
        "corpus": {"use": "python-source"},
        "rows": {"use": "packed", "length": 1024},
        "student": {"use": "smallcoder", "parameters": 303_654_528, "tokenizer": str(tmp_path / "tokenizer")},
        "trainer": {"use": "standard", "batch": 2, "accumulation": 1, "dtype": "bfloat16"},
        "train": {"losses": {"ce": {}}, "transforms": {"gradient-checkpointing": {}}, "steps": 10},
    }


def test_smallcoder_takes_what_its_shape_says(smallcoder: dict[str, Any]) -> None:
    found = kdtool.check(smallcoder, memory="8GB")
    facts, forecast = found["models"]["student"], found["forecast"]
    assert facts["parameters"] == 303_654_528
    assert round(2 * facts["parameters"] / 1e9, 2) == 0.61, "claimed: 1.2 GB in fp16"
    assert round(facts["parameters"] / 1e9, 2) == 0.30, "claimed: 0.7 GB in INT8"
    assert forecast["cache"]["student"] == 84_934_656, "claimed: 200 to 400 MB of keys and values at 4,096 tokens"
    assert found["fits"]["memory"]
    assert 5.5e9 < forecast["memory"]["peak"] < 6.5e9, "claimed: training in 5 to 6 GB"
    parts = forecast["memory"]["parts"]
    assert sum(parts[part] for part in ("weights", "optimizer")) == 12 * 303_654_528
    assert all("text and rows" in line for line in forecast["unknown"])


@pytest.mark.parametrize("arm", ["student", "control"])
def test_the_quickstart_s_time_is_forecast(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on two idle cores that multiply at 2,560 GFLOP/s: 1.32 s a step of the student, 0.86 s of the control."""
    monkeypatch.setattr(estimate, "product_speed", lambda *_: 2.56e12)
    monkeypatch.setattr(estimate, "chosen_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    student, both = (
        kdtool.check("quickstart", {"train.steps": 220, **control}, memory="1TB")["forecast"]
        for control in ({"control": False}, {})
    )
    forecast = {"student": student["seconds"], "control": both["seconds"] - student["seconds"]}[arm]
    assert forecast == pytest.approx({"student": 291, "control": 190}[arm], rel=0.2)
