"""What is written is compared with the student by logits, columns are weighed by what they meet in training text, and types
of tensors are those that llama-quantize chooses."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any, get_args

import gguf
import kdtool
import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from gguf_runs import run_in, text_examples
from gguf_students import save_student
from kdtool_export.gguf import GGUF
from kdtool_export.gguf.calibration import measure_importance, prepare, windows_of, write_importance
from kdtool_export.gguf.checks import _compare_rows, _margin_of_mean, require_same
from kdtool_export.gguf.files import write_gguf
from kdtool_export.gguf.quantisation import ModelShape, encode, tensor_type
from kdtool_export.gguf.settings import QUANTISED, Mix
from kdtool_testing import make_run
from kdtool_testing.tiny_models import save_tiny


@pytest.mark.parametrize("mix", get_args(Mix))
def test_every_type_is_the_same_model(mix: Mix, tmp_path: Path) -> None:
    save_student(tmp_path / "trained", digits=True)
    said: list[str] = []
    run = run_in(tmp_path / "run", name="small", say=said.append)
    artifact = GGUF(GGUF.Config(type=mix)).kdtool_export(run, tmp_path / "trained")
    assert artifact.quantisation == (mix if mix in QUANTISED else "")
    assert artifact.path.name == f"small-{mix}.gguf"
    told = GGUFReader(artifact.path)
    fields = {name: told.get_field(f"general.{name}") for name in ("name", "file_type", "quantization_version")}
    number = gguf.LlamaFileType[f"{'ALL' if mix == 'f32' else 'MOSTLY'}_{mix.upper()}"]
    assert {name: field and field.contents() for name, field in fields.items()} == {
        "name": "small",
        "file_type": number,
        "quantization_version": 2,
    }
    assert any(f"small-{mix}.gguf: KL divergence" in line for line in said)
    assert "KL divergence" in artifact.card


def test_logits_are_compared_as_in_double_precision() -> None:
    drawn = torch.Generator().manual_seed(0)
    own = torch.randn(40, 3000, generator=drawn) * 4
    theirs = torch.randn(40, 3010, generator=drawn) * 4  # ten rows pad the vocabulary
    theirs[:20, :3000] = own[:20] + theirs[:20, :3000] / 1000
    targets = torch.randint(3000, (40,), generator=drawn)
    log_own, log_theirs = own.double().log_softmax(1), theirs.double().log_softmax(1)
    expected = [
        (log_own.exp() * (log_own - log_theirs[:, :3000])).sum(1),
        (own.argmax(1) == theirs.argmax(1)).double(),
        *(logs[range(40), targets] for logs in (log_own, log_theirs)),
    ]
    found = _compare_rows(own.clone(), theirs.clone(), targets).double()
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=5e-6)
    assert float((found[0] - expected[0]).mean().abs()) < 1e-6


def test_the_margin_is_that_of_a_mean_over_windows() -> None:
    drawn = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).double()
    own = drawn.mean(1)
    assert _margin_of_mean([*drawn]) == pytest.approx(1.96 * float(own.std()) / 50**0.5)
    assert isnan(_margin_of_mean([drawn[0]]))


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    config = GGUF.Config(type="f32")
    student = save_student(tmp_path / "trained")
    prepared = prepare(run_in(tmp_path / "run"), student, tmp_path / "trained", config)
    file = write_gguf(student, tmp_path / "a.gguf", pre="smollm")  # digits alone: other tokens than the student's
    with pytest.raises(kdtool.PluginError, match=r"splits .* differently from the student's tokenizer"):
        require_same(student, file, prepared, config)
    other = write_gguf(save_student(tmp_path / "other", seed=1), tmp_path / "b.gguf")
    with pytest.raises(kdtool.PluginError, match=r"b\.gguf differs from the student: KL divergence .*type: f32"):
        require_same(student, other, prepared, config)


def test_importance_is_the_mean_of_squared_inputs_and_read_as_it_was_written(tmp_path: Path) -> None:
    student = save_student(tmp_path / "trained")
    student.model.float()
    windows = [[1, 2, 3, 4], [5, 6]]
    found = measure_importance(student, windows)
    seen: list[torch.Tensor] = []
    layer = student.model.model.layers[1].mlp.down_proj
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].reshape(-1, layer.in_features)))
    for window in windows:
        student.model(torch.tensor([window]))
    expected = torch.cat(seen).square().mean(0).detach().numpy()
    assert found["blk.1.ffn_down.weight"] == pytest.approx(expected, rel=1e-4)
    assert len(found) == 7 * student.model.config.num_hidden_layers
    write_importance(found, 3, "text", tmp_path / "a.gguf")
    stored = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "a.gguf").tensors}
    for name, values in found.items():
        assert stored[f"{name}.in_sum2"][0] / stored[f"{name}.counts"].max() == pytest.approx(values, rel=1e-5)
    fields = {"imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"}
    assert fields <= {*GGUFReader(tmp_path / "a.gguf").fields}


def test_text_that_is_measured_on_is_not_calibrated_on(tmp_path: Path) -> None:
    student = save_student(tmp_path / "trained")
    examples = text_examples()
    twice = replace(examples[0], id="again", split="test")
    run = make_run(tmp_path, examples=[*examples, twice])
    calibrating, measured = windows_of(run, student.tokenizer, 0, calibrate=10**6, measure=10**6)
    (train, test) = (sum(each.split == split for each in examples) for split in ("train", "test"))
    assert (len(calibrating), len(measured)) == (train - 1, test + 1)
    assert not {*map(tuple, calibrating)} & {*map(tuple, measured)}


def test_a_short_context_is_not_exceeded(tmp_path: Path) -> None:
    student = save_tiny(tmp_path / "trained", "gpt2", vocabulary=260, max_position_embeddings=96)
    long = kdtool.Example("long", kdtool.Text("def f(): pass\n" * 40), split="test")
    artifact = GGUF(GGUF.Config(type="f32")).kdtool_export(make_run(tmp_path, examples=[long]), tmp_path / "trained")
    assert student.facts.context == 96
    assert artifact.path.is_file(), "llama.cpp would abort behind the last position"


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_student(tmp_path / "trained")
    run = run_in(tmp_path / "run")

    def fill(writer: gguf.GGUFWriter, **_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", fill)
    with pytest.raises(kdtool.StorageError, match="No space left on device; free space there"):
        GGUF(GGUF.Config()).kdtool_export(run, tmp_path / "trained")
    assert not [*run.folder.iterdir()]


# Written by the program `llama-quantize` of the llama.cpp in llama-cpp-python 0.3.36: for each shape and type the bytes of
# all tensors, and the type of each kind of matrix, layer by layer where layers differ.
FIXTURE: dict[str, Any] = json.loads(Path(__file__).with_name("llama_quantize.json").read_text(encoding="utf-8"))


def sizes_of(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and sizes of a Llama's tensors."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    heads, shared = (config[f"num_{part}_heads"] * config["head_dim"] for part in ("attention", "key_value"))
    yield "token_embd.weight", (config["vocab_size"], hidden)
    if not config["tie_word_embeddings"]:
        yield "output.weight", (config["vocab_size"], hidden)
    yield "output_norm.weight", (hidden,)
    matrices = {
        "attn_q": (heads, hidden),
        "attn_k": (shared, hidden),
        "attn_v": (shared, hidden),
        "attn_output": (hidden, heads),
        "ffn_gate": (wide, hidden),
        "ffn_up": (wide, hidden),
        "ffn_down": (hidden, wide),
        "attn_norm": (hidden,),
        "ffn_norm": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        yield from ((f"blk.{layer}.{part}.weight", size) for part, size in matrices.items())


@pytest.mark.parametrize(
    ("shape", "file"), [(shape, file) for shape, told in FIXTURE.items() for file in told["files"]]
)
def test_types_and_sizes_are_those_of_llama_quantize(shape: str, file: str) -> None:
    config, expected = FIXTURE[shape]["config"], FIXTURE[shape]["files"][file]
    mix, _, weighted = file.partition(" ")
    group = config["num_attention_heads"] // config["num_key_value_heads"]
    model = ModelShape(config["num_hidden_layers"], group, config["tie_word_embeddings"])
    found: dict[str, list[str]] = {}
    total = 0
    for name, size in sizes_of(config):
        kind = tensor_type(mix, name, size, model, weighted=bool(weighted))
        block, stored = GGML_QUANT_SIZES[kind]
        total += int(np.prod(size)) // block * stored
        if len(size) > 1:
            found.setdefault(name.split(".")[2 if name.startswith("blk.") else 0], []).append(kind.name)
    assert {part: kinds[0] if len({*kinds}) == 1 else " ".join(kinds) for part, kinds in found.items()} == expected[
        "types"
    ]
    assert total == expected["bytes"]


@pytest.mark.parametrize(("kind", "deviation"), [("Q2_K", 0.3), ("Q4_K", 0.08), ("Q6_K", 0.02), ("IQ4_XS", 0.08)])
def test_a_quantised_matrix_is_close_to_itself(kind: str, deviation: float) -> None:
    values = np.random.default_rng(0).normal(size=(1100, 512)).astype(np.float32)  # more rows than one call takes
    stored = GGMLQuantizationType[kind]
    found = dequantize(encode(values, stored), stored)
    assert np.sqrt(np.mean((found - values) ** 2)) < deviation
    assert (encode(values, stored, threads=1) == encode(values, stored, threads=3)).all()


def test_important_columns_are_kept_better() -> None:
    values = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    importance = np.ones(256, dtype=np.float32)
    importance[::8] = 1000
    errors = [
        np.mean((dequantize(encode(values, kind, weights), kind) - values)[:, ::8] ** 2)
        for kind in [GGMLQuantizationType.Q2_K]
        for weights in (None, importance)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(kdtool.PluginError, match="contain infinities or NaN"):
        encode(np.full((1, 256), np.nan, dtype=np.float32), GGMLQuantizationType.Q4_K)
