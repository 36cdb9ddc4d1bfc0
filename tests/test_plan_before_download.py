"""`kdtool run --plan` where something that fingerprints need is not there: it lists downloads and stages, and says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kdtool._cli import call

_DOWN = """
import kdtool

class Down(kdtool.Corpus):
    def kdtool_identity(self, run):
        raise kdtool.ServiceError("the server of the text does not answer; start it")

    def kdtool_examples(self, run):
        for split in ("train", "validation", "test"):
            yield kdtool.Example(split, kdtool.Text("x = 1\\n" * 500), split=split)
"""


def test_a_plan_lists_the_models_that_would_be_fetched(tmp_path: Path) -> None:
    file = tmp_path / "uncached.yaml"
    recipe = {
        "name": "uncached",
        "corpus": {"use": "python-source", "train_files": 2},
        "rows": {"use": "packed", "length": 64},
        "student": {"use": "pretrained", "model": "codellama/CodeLlama-7b-hf"},
        "trainer": {"use": "standard"},
        "train": {"losses": {"ce": {}}, "steps": 1},
        "terms_acknowledged": {"student": "Llama 2 Community License"},
    }
    file.write_text(json.dumps(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "kdtool", "run", str(file), "--plan", "--store", str(tmp_path / "store")]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "codellama/CodeLlama-7b-hf" in next(line for line in lines if "not known yet" in line)
    assert any(line.startswith("↓ fetch     weights of codellama/CodeLlama-7b-hf") for line in lines)
    assert "↻ run       training of student, seed 0" in lines
    assert not list((tmp_path / "hub").rglob("*.safetensors"))


def test_a_plan_shows_another_reason_why_it_is_incomplete(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "down.py").write_text(_DOWN, encoding="utf-8")
    file = tmp_path / "down.yaml"
    recipe = {key: value for key, value in recipe.items() if key not in {"corpus", "corpora"}}
    file.write_text(json.dumps({**recipe, "corpus": {"use": f"{tmp_path}/down.py:Down"}}), encoding="utf-8")
    assert call(["run", str(file), "--plan", "--store", str(tmp_path / "store")]) == 0
    assert "the server of the text does not answer; start it" in capsys.readouterr().out
