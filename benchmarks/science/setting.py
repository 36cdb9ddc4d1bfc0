"""The small setting of all studies beside this file: its recipe, and its teacher outside the engine.

SmolLM2-135M teaches ten of its own thirty layers Python's standard library, in steps of one row of 256 tokens, embeddings
frozen, as the quickstart does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import kdtool
import torch
from kdtool_essentials.python_source import PythonSource
from kdtool_teacher_smollm2 import SmolLM2
from kdtool_testing import make_run
from kdtool_transformers import TransformersModel
from torch import Tensor


def run_with_teacher(folder: Path, dtype: Literal["auto", "float32"]) -> kdtool.RunInfo:
    """Return a run's surroundings with the teacher and the corpus's texts, to use components without the engine."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus, teacher = PythonSource(PythonSource.Config()), SmolLM2(SmolLM2.Config(dtype=dtype))
    return make_run(folder, {"teacher": teacher}, list(corpus.kdtool_examples(make_run(folder))), offline=True)


def teacher_of(run: kdtool.RunInfo) -> TransformersModel:
    """Open the teacher's model."""
    runtime = kdtool.open_subject(run, kdtool.Subject("teacher", "teacher"))
    assert runtime is not None
    assert isinstance(runtime.value.model, TransformersModel)
    return runtime.value.model


def logits(model: TransformersModel, batch: kdtool.Batch) -> Tensor:
    """Return a model's logits of a batch in float32, [N, V], without gradient."""
    model.model.eval()
    with torch.no_grad():
        return model.head.logits(model.backbone(batch, kdtool.SignalRequest()).last).float()


def recipe(*, tokens: int, steps: int, train: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
    """Return a recipe of the setting: `tokens` different ones, one phase; `parts` are further keys of the recipe."""
    return {
        "corpus": {"use": "python-source"},
        "rows": {"use": "packed", "length": 256, "maximum_tokens": tokens},
        "teacher": {"use": "smollm2"},
        "student": {"use": "pruned", "layers": 10},
        "trainer": {
            "use": "standard",
            "batch": 1,
            "learning_rate": 1e-3,
            "compile": "off",
            "gradient_norms_every": 10_000,
        },
        "train": {"transforms": {"freeze": {}}, "steps": steps, **train},
        **parts,
    }
