"""The exporter `web`: its graphs are the student, with the cache, and broken ones are refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kdtool
import numpy as np
import onnx
import onnxruntime_genai as genai
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_export.web import Web, npm
from kdtool_export.web import graph as _graph
from kdtool_export.web.graph import BLOCK, from_blocks, to_blocks
from kdtool_export.web.npm import RUNTIME, find_runtime, require_runtime
from kdtool_export.web.parity import compare, run_in_python
from kdtool_testing import ExporterConformance, make_run
from kdtool_testing.tiny_models import save_tiny
from kdtool_transformers import open_model


def write_runtime(folder: Path) -> Path:
    """Write files of the names of the browser's runtime, which nothing here runs."""
    folder.mkdir()
    for name in RUNTIME:
        (folder / name).write_text("// not the runtime\n", encoding="utf-8")
    return folder


class TestWeb(ExporterConformance):
    component = Web
    entry_point = "web"
    opens = False

    def write_student(self, folder: Path) -> Path:
        save_tiny(folder, layers=2, hidden_size=64, intermediate_size=96)
        return folder

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        own = folder / "runtime"
        return {"browser": "none", "runtime": str(own if own.is_dir() else write_runtime(own))}


def export(folder: Path, **settings: Any) -> tuple[kdtool.Artifact, list[str]]:
    """Export a tiny student without a browser; return the artefact and what was said."""
    (folder / "trained").is_dir() or save_tiny(folder / "trained", layers=2, hidden_size=64, intermediate_size=96)
    said: list[str] = []
    (folder / "run").mkdir(exist_ok=True)
    run = make_run(folder / "run", say=said.append)
    exporter = Web(Web.Config(browser="none", runtime=str(write_runtime(folder / "runtime")), **settings))
    return exporter.kdtool_export(run, folder / "trained"), said


def test_each_type_is_the_student_and_its_figures_are_in_the_card(tmp_path: Path) -> None:
    artifact, said = export(tmp_path, dtypes=("int8", "q4", "q4f16"))
    divergences = [float(line.partition("KL divergence ")[2].split()[0]) for line in said if "KL divergence" in line]
    assert len(divergences) == 3
    assert divergences[0] < 1e-3 < max(divergences[1:]) < 0.1, "8 bits are closer than 4"
    for line in said[1:]:
        assert line.removeprefix("web: ") in artifact.card
    assert "NOT measured in a browser" in artifact.card


def test_no_input_of_the_graph_has_a_default_which_a_browser_could_not_replace(tmp_path: Path) -> None:
    graph = onnx.load(export(tmp_path)[0].path / "onnx" / "model_int8.onnx").graph
    assert not {value.name for value in graph.input} & {constant.name for constant in graph.initializer}


@pytest.mark.parametrize("dtype", ["int8", "q4"])
def test_onnx_runtime_genai_opens_the_folder_and_writes_the_same_tokens(dtype: str, tmp_path: Path) -> None:
    folder = export(tmp_path, dtypes=(dtype,))[0].path
    ids, shape = [5, 9, 17, 3], _graph.shape_of(open_model(tmp_path / "trained", offline=True).model.config, 2048)
    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=20, do_sample=False)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    written = generator.get_sequence(0).tolist()
    logits = run_in_python(folder, dtype, shape, [written], len(ids)).logits
    assert written == [*ids, *logits[len(ids) - 1 : -1].argmax(-1)]
    assert len(written) == 20


def swap_cache(graph: onnx.GraphProto) -> None:
    """Return the keys of a layer as its values."""
    node = next(node for node in graph.node if node.op_type == "GroupQueryAttention")
    node.output[1], node.output[2] = node.output[2], node.output[1]


def misread_scales(graph: onnx.GraphProto) -> None:
    """Read the scales of the head as if they were of another dtype."""
    scales = next(each for each in graph.initializer if each.name.endswith("down_proj.weight.scales"))
    halves = np.frombuffer(scales.raw_data, np.float16)[: len(scales.raw_data) // 4]
    scales.raw_data = np.nan_to_num(halves.astype(np.float32)).clip(-10, 10).tobytes()


@pytest.mark.parametrize("broken", [swap_cache, misread_scales])
def test_a_broken_export_is_refused(
    broken: Callable[[onnx.GraphProto], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _graph.build_graph

    def build(model: Any, dtype: str, shape: Any) -> bytes:
        found = onnx.load_from_string(whole(model, dtype, shape))
        broken(found.graph)
        return bytes(found.SerializeToString())

    monkeypatch.setattr(_graph, "build_graph", build)
    with pytest.raises(kdtool.PluginError, match=r"(differs from the student|computes something else).*expected"):
        export(tmp_path, dtypes=("int8",))


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"family": "gpt2"}, "with model_type gpt2 cannot.*expected llama or qwen2.*export"),
        ({"hidden_size": 32}, r"a llama with heads of 8 numbers cannot.*expected .* multiple of 16"),
    ],
)
def test_what_the_operators_do_not_compute_is_refused_before_training(student: Any, said: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "untrained", **student)
    exporter = Web(Web.Config(runtime=str(write_runtime(tmp_path / "runtime"))))
    with pytest.raises(kdtool.UsageError, match=said):
        exporter.kdtool_check(make_run(tmp_path, untrained=tmp_path / "untrained"), "student")


def test_divergence_and_agreement_are_those_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(7, 11, generator=generator, dtype=torch.float64) for _ in range(2))
    divergence, agreement = compare(p, q)
    a, b = p.softmax(-1).numpy(), q.softmax(-1).numpy()
    assert divergence == pytest.approx((a * np.log(a / b)).sum(-1).mean(), rel=1e-12)
    assert agreement == (a.argmax(-1) == b.argmax(-1)).mean()


@given(st.integers(1, 5), st.integers(1, 100), st.floats(1e-6, 1e6), st.sampled_from([4, 8]), st.integers(0, 2**31))
def test_blocks_are_the_matrix_to_half_a_step(rows: int, width: int, size: float, bits: int, seed: int) -> None:
    matrix = (np.random.default_rng(seed).standard_normal((rows, width)) * size).astype(np.float32)
    matrix[0] = 0
    blocks = to_blocks(matrix, bits)
    stood, scales = from_blocks(blocks, bits, width), blocks.scales
    assert not from_blocks(blocks, bits, scales.size // rows * BLOCK)[:, width:].any()
    steps = np.abs(np.repeat(scales, BLOCK, 1))[:, :width]
    error = np.abs(stood - matrix)
    clipped = np.abs(matrix) > steps * (2 ** (bits - 1) - 1)
    assert (error[~clipped] <= 0.501 * steps[~clipped]).all()
    if bits == 8:
        assert (error <= 0.501 * steps).all()


def test_without_npm_a_run_stops_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(npm, "_cache", lambda: tmp_path / "cache")
    with pytest.raises(
        kdtool.UsageError, match=r"npm is not installed; expected it, .*: install Node\.js, or set runtime"
    ):
        Web(Web.Config()).kdtool_check(make_run(tmp_path), "start")
    with pytest.raises(kdtool.UsageError, match=r"lacks ort\.wasm\.min\.mjs; expected the files .*: copy them"):
        require_runtime(str(tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for npm is a script of sh")
def test_a_package_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "npm"
    script.write_text('#!/bin/sh\necho "something else" > "$4/package.tgz"\necho package.tgz\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(npm, "_cache", lambda: tmp_path / "cache" / "runtime")
    with pytest.raises(kdtool.PluginError, match=r"has the hash sha512-.*; expected sha512-q0y.*: fetch it from"):
        find_runtime("npm")
    assert not (tmp_path / "cache" / "runtime").exists()
