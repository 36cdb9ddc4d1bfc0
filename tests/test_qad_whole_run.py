"""Quantisation-aware distillation: the student learns its own probabilities with the weights of a GGUF file."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "small" / "qad.yaml"
GRID = {"type": "q4_0", "imatrix": "none"}


@pytest.fixture
def trained(recipe: dict[str, Any], teacher_folder: Path) -> dict[str, Any]:
    """A recipe that trains a small student on text until rounding its weights shows, and exports it."""
    return {
        "name": "qad",
        "corpus": {**recipe["corpus"], "train_files": 40},
        "rows": {"use": "packed", "length": 64, "maximum_tokens": 131072},
        "student": {
            "use": "gpt", "layers": 2, "hidden": 64, "heads": 4, "feed_forward": 128, "tokenizer": str(teacher_folder)
        },
        "trainer": {"use": "standard", "batch": 16, "dtype": "float32", "learning_rate": 5e-3, "compile": "off"},
        "train": {"learn": {"losses": {"ce": {}}, "steps": 200}},
        "exporters": {"gguf": {**GRID, "compare": 256}},
        "trackers": [],
        "reporter": None,
    }  # fmt: skip


def with_qad(recipe: dict[str, Any], learning_rate: float) -> dict[str, Any]:
    """Return the recipe with a phase of distillation behind the first."""
    phase = {
        "teacher": {"use": "initial-student"},
        "transforms": {"gguf-grid": GRID},
        "losses": {"forward-kl": {}},
        "trainer": {"learning_rate": learning_rate},
        "steps": 60,
    }
    return {**recipe, "train": {**recipe["train"], "qad": phase}}


def divergence(student: Path, file: Path) -> float:
    """Return the mean KL divergence in nats of a file, as llama.cpp computes it, from a student on unread text."""
    from kdtool_export.gguf.calibration import final_states
    from kdtool_export.gguf.checks import compare
    from kdtool_export.gguf.decoder import Decoder
    from kdtool_transformers import open_model

    model = open_model(student, dtype=torch.float32)
    text = Path(sysconfig.get_path("stdlib"), "tokenize.py").read_text(encoding="utf-8")
    ids = model.tokenizer.encode(text)[:1920]
    windows = [[*model.tokenizer.scoring_context, *ids[start : start + 60]] for start in range(0, len(ids), 60)]
    with Decoder(file, context=64, threads=1) as decoder:
        return compare(model, windows, [*final_states(model, windows)], decoder).mean


def test_the_file_is_nearer_to_the_student_in_full_precision(trained: dict[str, Any]) -> None:
    plain = kdtool.run(trained).arms[0]
    before = divergence(plain.path, plain.artifacts[0].path)
    still, distilled = (
        divergence(plain.path, kdtool.run(with_qad(trained, rate)).arms[0].artifacts[0].path) for rate in (1e-12, 5e-4)
    )
    assert still == pytest.approx(before, rel=0.02), "the grid of the phase is that of the file"
    assert distilled < 0.6 * before


def test_the_small_recipe_runs_from_text_to_files(teacher_folder: Path) -> None:
    settings = {
        "teacher": {"use": "causal-lm", "model": str(teacher_folder), "dtype": "float32"},
        "student.layers": 4,
        "corpus": {"use": "python-source", "train_files": 8, "validation_files": 2, "test_files": 3},
        "rows.length": 64,
        "rows.maximum_tokens": 1024,
        "train.finetune.steps": 2,
        "train.qad.steps": 2,
        "trainer.dtype": "float32",
        "evaluators.perplexity": {"limit": 2, "characters": 200},
        "exporters.gguf.compare": 256,
    }
    results = kdtool.run(RECIPE, settings, offline=True)
    student = results.arms[0]
    assert list(student.phases) == ["finetune", "qad"]
    assert student.artifacts[0].path.name == "small-qad-q2_k.gguf"
    measured = {found.subject for found in results.measurements if found.name == "perplexity"}
    assert measured == {"teacher", "student", "student-gguf"}
