"""The exporter `onnx`: the graph is the student, for single texts, padded batches and greedy continuations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import kdtool
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_export.onnx import ONNX
from kdtool_export.onnx.graph import BLOCK, to_blocks
from kdtool_export.onnx.runtime import OnnxModel
from kdtool_testing import ExporterConformance, make_run
from kdtool_testing.tiny_models import save_tiny
from kdtool_transformers import TransformersRuntime, open_model

TEXTS = ["def f(x):\n    return x\n", "import os\n\n\nprint(os.name, 'größe')\n" * 12]


@pytest.mark.slow
class TestONNX(ExporterConformance):
    component = ONNX
    entry_point = "onnx"


@pytest.fixture(scope="module", params=["float32", "int8"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A dtype, the folder of a tiny student, and that of its graph."""
    folder = tmp_path_factory.mktemp("onnx")
    save_tiny(folder / "trained", hidden_size=64, intermediate_size=128)
    exporter = ONNX(ONNX.Config(dtype=request.param))
    artifact = exporter.kdtool_export(make_run(folder / "run"), folder / "trained")
    assert artifact.quantisation == ("int8" if request.param == "int8" else "")
    return request.param, folder / "trained", artifact.path


def opened(run: kdtool.RunInfo, folder: Path) -> kdtool.Runtime:
    runtime = ONNX(ONNX.Config()).kdtool_open(run, kdtool.Subject("onnx", "artifact", folder))
    assert runtime is not None
    return runtime


def test_scores_and_answers_are_those_of_the_student(exported: tuple[str, Path, Path], tmp_path: Path) -> None:
    dtype, trained, graph = exported
    requests = [kdtool.Request(str(n), text, max_tokens=24) for n, text in enumerate(TEXTS)]
    requests.append(kdtool.Request("sampled", TEXTS[0], max_tokens=24, temperature=0.8, seed=3))
    with (
        opened(make_run(tmp_path / "run"), graph) as runtime,
        TransformersRuntime(open_model(trained, offline=True)) as own,
    ):
        close = 1e-4 if dtype == "float32" else 0.05
        for score, expected in zip(runtime.score(TEXTS), own.score(TEXTS), strict=True):
            assert (score.tokens, score.bytes) == (expected.tokens, expected.bytes)
            assert score.log_likelihood == pytest.approx(expected.log_likelihood, rel=close)
        if dtype == "float32":
            assert by_id(runtime.answer(requests)) == by_id(own.answer(requests)), "also beside padding"
        else:
            assert own.model is not None
            size = (graph / "model.onnx.data").stat().st_size
            assert size < 0.3 * 4 * own.model.facts.parameters, "the embedding is stored once"


def by_id(answers: Any) -> dict[str, kdtool.TextAnswer]:
    return {answer.id: answer for answer in answers}


@given(st.integers(1, 5), st.integers(1, 200), st.floats(1e-6, 1e6), st.integers(0, 2**31))
def test_blocks_are_the_matrix_to_half_a_step(rows: int, width: int, size: float, seed: int) -> None:
    matrix = (np.random.default_rng(seed).standard_normal((rows, width)) * size).astype(np.float32)
    matrix[0] = 0
    numbers, scales = to_blocks(matrix)
    again = ((numbers.astype(np.float64) - 128) * scales[..., None]).reshape(rows, -1)
    steps = np.repeat(scales, BLOCK, 1)
    assert (np.abs(again[:, :width] - matrix) <= 0.501 * steps[:, :width]).all()
    assert not again[:, width:].any()


def test_a_cache_in_two_parts_gives_the_same_logits(exported: tuple[str, Path, Path]) -> None:
    graph = OnnxModel(exported[2])
    ids = torch.arange(20)[None]
    whole = graph(ids).logits
    first = graph(ids[:, :13])
    second = graph(ids[:, 13:], cache=first[1])
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, atol=1e-4, rtol=1e-4)


def test_the_lines_of_how_to_use_run_without_torch(exported: tuple[str, Path, Path]) -> None:
    from kdtool_export.onnx import _how_to_use

    code = "import sys\nsys.modules['torch'] = sys.modules['transformers'] = None\n" + _how_to_use(str(exported[2]))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("def fibonacci(n):")


def test_a_graph_of_something_else_is_refused(exported: tuple[str, Path, Path]) -> None:
    exporter = ONNX(ONNX.Config.model_validate({"dtype": exported[0]}))
    other = torch.randn(32, json.loads((exported[2] / "config.json").read_text(encoding="utf-8"))["vocab_size"])
    with pytest.raises(kdtool.PluginError, match="the graph differs from the student: logits deviate"):
        exporter._require_same(exported[2], other)
