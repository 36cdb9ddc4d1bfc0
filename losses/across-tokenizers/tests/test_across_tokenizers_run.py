"""A whole run: a student of bytes learns from a teacher that reads pieces, and from one that reads its own tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_testing.tiny_models import save_code_llama_tokenizer, save_tiny, tiny_config


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Texts with characters of one to four bytes, a Llama with the tokenizer of a Code Llama, another one with bytes."""
    import torch
    from transformers import LlamaForCausalLM

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDTOOL_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(1)
    LlamaForCausalLM(tiny_config(layers=1, vocabulary=600)).save_pretrained(tmp_path / "pieces")
    save_code_llama_tokenizer(tmp_path / "pieces", 600, 40_000, infilling=False)
    save_tiny(tmp_path / "bytes", layers=1)
    texts = [f"def größe_{i}(n):\n    return '漢字 👩‍👧' * {i}\n" for i in range(1, 9)]
    lines = [json.dumps({"text": text, "id": f"t{i}"}) for i, text in enumerate(texts)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {
        "name": "across",
        "corpus": {"use": "jsonl", "files": [str(tmp_path / "texts.jsonl")]},
        "rows": {"use": "packed", "length": 64},
        "teacher": {"use": "causal-lm", "model": str(tmp_path / "pieces"), "dtype": "float32"},
        "signals": False,
        "student": {"use": "pretrained", "model": str(tmp_path / "bytes")},
        "trainer": {"use": "standard", "dtype": "float32", "log_every": 1, "learning_rate": 3e-3},
        "train": {
            "losses": {
                "uld": {},
                "projected-kl": {},
                "span-likelihood": {},
                "debiased": {"use": "span-likelihood", "debias": 0.001},
            },
            "steps": 8,
        },
    }


@pytest.mark.parametrize("teacher", ["pieces", "bytes"])
def test_all_losses_train_a_student(recipe: dict[str, Any], tmp_path: Path, teacher: str) -> None:
    recipe["teacher"]["model"] = str(tmp_path / teacher)
    results = kdtool.run(recipe)
    history = results.arms[0].histories["train"]
    assert ("rows/teacher" in {stage.name for stage in results.stages}) == (teacher == "pieces")
    for label in recipe["train"]["losses"]:
        values = [report.terms[label].value for report in history]
        if teacher == "bytes":
            assert values[0] < 1e-6, "the student is the teacher"  # later steps follow what Adam makes of rounding
        else:
            assert 0 < min(values[1:]) < values[0]  # each step has other text
            assert history[0].terms[label].gradient_norm
