"""The exporter `compressed-tensors`: the rounded student in the folder, layers left out, refusals, opening again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_export import compressed_tensors
from kdtool_export.compressed_tensors import CompressedTensors, open_compressed
from kdtool_export.safetensors import Safetensors
from kdtool_testing import ExporterConformance, make_run
from kdtool_testing.tiny_models import save_tiny
from kdtool_transformers import open_model
from safetensors.torch import load_file
from torch import Tensor, nn


class TestCompressedTensors(ExporterConformance):
    component = CompressedTensors
    entry_point = "compressed-tensors"


def export(folder: Path, scheme: Any, said: list[str] | None = None, **settings: Any) -> kdtool.Artifact:
    """Export a tiny student of two layers from `folder`/trained, where it stays."""
    save_tiny(folder / "trained", layers=2, **settings)
    run = make_run(folder / "run", say=[].append if said is None else said.append)
    return CompressedTensors(CompressedTensors.Config(scheme=scheme)).kdtool_export(run, folder / "trained")


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.model(input_ids=torch.arange(48)[None]).logits
    return found


def on_grid(values: Tensor, bits: int, group: int, scale_dtype: torch.dtype | None = torch.bfloat16) -> Tensor:
    """Return values rounded to the nearest of a symmetric grid for each `group` of a row: the format, written again."""
    groups = values.reshape(*values.shape[:-1], -1, group)
    scale = groups.abs().amax(-1, keepdim=True) / (2**bits - 1) * 2
    if scale_dtype is not None:
        scale = scale.to(scale_dtype).float()
    integers = (groups / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    rounded: Tensor = (integers * scale).reshape(values.shape)
    return rounded


@pytest.mark.parametrize(
    ("scheme", "family"), [("w8a8", "llama"), ("w8a16", "llama"), ("w4a16", "llama"), ("w4a16", "qwen2")]
)
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_computes_what_the_rounded_student_computes(
    scheme: str, family: str, tied: bool, tmp_path: Path
) -> None:
    artifact = export(tmp_path, scheme, family=family, intermediate_size=64, tie_word_embeddings=tied)
    student = open_model(tmp_path / "trained", dtype=torch.float32, offline=True)
    head = student.model.get_output_embeddings()
    with torch.no_grad():
        for parameter in student.model.parameters():
            if parameter.ndim == 1:  # norms and biases
                parameter.copy_(parameter.bfloat16())
        for tensor in {
            id(module.weight): module.weight for module in (student.model.get_input_embeddings(), head)
        }.values():
            tensor.copy_(tensor.bfloat16())
        for layer in student.model.modules():
            if isinstance(layer, nn.Linear) and layer is not head:
                bits, group = 8 if "w8" in scheme else 4, layer.in_features if scheme == "w8a8" else 32
                layer.weight.copy_(on_grid(layer.weight, bits, group))
                if scheme == "w8a8":
                    layer.register_forward_pre_hook(lambda _, given: (on_grid(given[0], 8, given[0].shape[-1], None),))
    written = open_compressed(artifact.path, dtype=torch.float32)
    assert torch.allclose(logits_of(written), logits_of(student), rtol=1e-4, atol=1e-4)
    assert written.facts.parameters == student.facts.parameters
    assert written.facts.tied == tied


def test_four_bits_are_packed_and_embeddings_are_not(tmp_path: Path) -> None:
    said: list[str] = []
    artifact = export(tmp_path, "w4a16", said)  # the feed-forward network is 48 wide, which 32 does not divide
    stored = load_file(artifact.path / "model.safetensors")
    layer = "model.layers.0.self_attn.q_proj"
    assert stored[f"{layer}.weight_packed"].shape == (32, 4)
    assert stored[f"{layer}.weight_packed"].dtype == torch.int32
    assert stored[f"{layer}.weight_scale"].shape == (32, 1)
    assert stored["model.layers.0.mlp.down_proj.weight"].dtype == torch.bfloat16
    assert stored["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert "lm_head.weight" not in stored
    config = json.loads((artifact.path / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert set(config["ignore"]) == {"lm_head", *(f"model.layers.{number}.mlp.down_proj" for number in (0, 1))}
    assert config["format"] == "pack-quantized"
    assert "model.layers.0.mlp.down_proj" in said[0]
    assert artifact.quantisation == "w4a16"
    assert "a scale for 32 weights" in artifact.card


@pytest.mark.parametrize(("widths", "group"), [((128, 256), 128), ((64, 128), 64)])
def test_the_largest_group_that_divides_all_widths_is_taken(widths: Any, group: int, tmp_path: Path) -> None:
    artifact = export(tmp_path, "w4a16", hidden_size=widths[0], intermediate_size=widths[1])
    config = json.loads((artifact.path / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert config["config_groups"]["group_0"]["weights"]["group_size"] == group


def test_each_exporter_opens_its_own_folders_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = export(tmp_path, "w8a8")
    run = make_run(tmp_path / "again")
    ours, plain = CompressedTensors(CompressedTensors.Config()), Safetensors(Safetensors.Config())
    compressed = kdtool.Subject("export", "artifact", artifact.path)
    dense = kdtool.Subject("export", "artifact", tmp_path / "trained")
    assert plain.kdtool_open(run, compressed) is None
    assert ours.kdtool_open(run, dense) is None
    for exporter, subject in ((plain, dense), (ours, compressed)):
        runtime = exporter.kdtool_open(run, subject)
        assert runtime is not None
        with runtime:
            next(runtime.score(["def f"]))
    assert not capfd.readouterr().err
    (tmp_path / "trained" / "config.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(kdtool.UsageError, match=r"config.json cannot be read"):
        ours.kdtool_open(run, dense)


@pytest.mark.parametrize(
    ("scheme", "student", "match"),
    [
        ("w8a8", {"family": "gpt2"}, "nn.Linear layers was expected, but GPT2LMHeadModel has none"),
        ("w4a16", {"hidden_size": 24, "intermediate_size": 40}, r"multiple of 32.*take scheme: w8a8"),
    ],
)
def test_a_student_without_such_layers_is_refused_before_training(
    scheme: Any, student: Any, match: str, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "untrained", layers=2, **student)
    exporter = CompressedTensors(CompressedTensors.Config(scheme=scheme))
    exporter.kdtool_check(make_run(tmp_path / "run"), "start")
    with pytest.raises(kdtool.UsageError, match=match):
        exporter.kdtool_check(make_run(tmp_path / "run", untrained=tmp_path / "untrained"), "start")


def test_a_folder_that_holds_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_other(folder: Path, **settings: Any) -> Any:
        other = open_compressed(folder, **settings)
        torch.nn.init.normal_(other.model.model.layers[0].mlp.down_proj.weight)
        return other

    monkeypatch.setattr(compressed_tensors, "open_compressed", open_other)
    with pytest.raises(kdtool.PluginError, match="differs from the rounded student"):
        export(tmp_path, "w8a8")


def test_a_student_that_rounding_destroys_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compressed_tensors._LIMIT, "w4a16", 1e-6)
    with pytest.raises(kdtool.PluginError, match=r"in w4a16 logits deviate .*take w8a8, train with the transform qat"):
        export(tmp_path, "w4a16")
