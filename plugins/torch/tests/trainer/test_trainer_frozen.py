"""Frozen weights while a phase trains: their dtype, their memory, and that nothing that is computed changes."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
import torch
from kdtool_testing.tiny_models import gradients, greatest_difference, tiny_model
from kdtool_torch.machine import frozen_bytes, frozen_weights_held
from kdtool_torch.trainer import train as train_module
from kdtool_transformers import TransformersModel
from torch import Tensor, nn
from trainer_models import CE, MIXTURE, TinyModel, make_model, train_terms
from transformers.pytorch_utils import Conv1D

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
TERM = kdtool.LossTerm("losses.looks", "looks", 1.0)


class Looks(CE):
    """Cross-entropy that notes the dtypes of the student's weights while it learns."""

    student: ClassVar[TinyModel]
    found: ClassVar[dict[str, torch.dtype]]

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        type(self).found = {name: p.dtype for name, p in self.student.model.named_parameters()}
        return super().kdtool_token_loss(chunk)


def student(exact: bool = True, tied: bool = False, frozen: tuple[str, ...] = ("embedding", "layers")) -> TinyModel:
    """A student with frozen weights, which bfloat16 holds without loss if `exact`."""
    made = make_model(1, tied=tied)
    for name, parameter in made.model.named_parameters():
        if exact:
            parameter.data = parameter.data.bfloat16().float()
        parameter.requires_grad_(not name.startswith(frozen))
    return made


def train(folder: Path, one: TinyModel, dtype: str) -> dict[str, Tensor]:
    Looks.student = one
    train_terms(folder, [TERM], {"losses.looks": Looks(Looks.Config())}, student=one, steps=4, dtype=dtype)
    return {name: p.detach().clone() for name, p in one.model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("exact", [True, False])
def test_frozen_weights_are_held_in_the_compute_dtype_and_nothing_computed_changes(
    exact: bool, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = ("embedding", "layers.0")
    before = {name: p.detach().clone() for name, p in student(exact, tied, frozen).model.named_parameters()}
    found = train(tmp_path / "held", student(exact, tied, frozen), "bfloat16")
    expected_dtypes = {
        "embedding.weight": BF16 if exact else FP32,  # looked up in: rounded, the student would read something else
        "layers.0.weight": BF16,
        "layers.0.bias": FP32,
        "layers.1.weight": FP32,
        "layers.1.bias": FP32,
    }
    assert Looks.found == expected_dtypes | ({} if tied else {"head.weight": FP32})
    with monkeypatch.context() as patched:
        patched.setattr(train_module, "frozen_weights_held", lambda model, dtype: nullcontext())
        plain = train(tmp_path / "plain", student(exact, tied, frozen), "bfloat16")
    assert set(Looks.found.values()) == {FP32}
    for name, weight in found.items():
        assert weight.dtype == FP32
        assert weight.equal(plain[name])
        assert weight.equal(before[name]) == name.startswith(frozen)


def test_a_float32_phase_holds_float32(tmp_path: Path) -> None:
    train(tmp_path, student(), "float32")
    assert set(Looks.found.values()) == {FP32}


def test_a_student_in_bfloat16_is_computed_in_float32_where_the_phase_says_so(tmp_path: Path) -> None:
    wide, half = student(), student()
    half.model.to(BF16)
    expected, found = train(tmp_path / "wide", wide, "float32"), train(tmp_path / "half", half, "float32")
    assert set(Looks.found.values()) == {FP32}
    assert found["layers.0.weight"].dtype == BF16  # given back as it was
    assert all(found[name].float().equal(weight) for name, weight in expected.items())


def test_memory_that_a_learning_weight_has_too_is_not_cast() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    layers: Any = model
    layers[1].weight.data = layers[0].weight.data  # one memory, two parameters
    layers[1].weight.requires_grad_(False)
    layers[2].weight.requires_grad_(False)
    with frozen_weights_held(model, BF16):
        assert layers[1].weight.dtype == FP32
        assert layers[2].weight.dtype == BF16
        assert layers[1].weight.data_ptr() == layers[0].weight.data_ptr()


@pytest.mark.parametrize("exact", [True, False])
def test_a_phase_that_fails_gives_frozen_weights_back(exact: bool) -> None:
    one = student(exact)
    before = {name: p.detach().clone() for name, p in one.model.named_parameters()}

    def fail() -> None:
        with frozen_weights_held(one.model, BF16):
            assert one.model.layers[0].weight.dtype == BF16
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    for name, weight in one.model.named_parameters():
        assert weight.dtype == FP32
        assert weight.equal(before[name])


def test_weights_that_lie_in_one_file_are_told_apart() -> None:
    memory = torch.randn(32)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    layers: Any = model
    layers[0].weight.data, layers[1].weight.data = memory[:16].view(4, 4), memory[16:].view(4, 4)
    layers[0].weight.requires_grad_(False)
    with frozen_weights_held(model, BF16):
        assert [layer.weight.dtype for layer in layers] == [BF16, FP32]
    assert layers[0].weight.equal(memory[:16].view(4, 4))


@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2", "gpt2", "gemma2"])
def test_families_compute_the_same_in_less_memory(family: str) -> None:
    def run_pass(hold: bool) -> tuple[dict[str, Tensor], int]:
        one = freeze_in_part(family)
        torch.manual_seed(0)  # GPT-2 drops out
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        context = frozen_weights_held(one.model, BF16) if hold else nullcontext()
        with context, torch.autocast("cpu", BF16), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            weights = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in one.model.parameters()}
            found = gradients(one)
        return found, sum({**kept, **weights}.values())

    (found, less), (expected, more) = run_pass(True), run_pass(False)
    assert greatest_difference(found, expected) < 0.001
    layers = [module for module in freeze_in_part(family).model.modules() if type(module) in {nn.Linear, Conv1D}]
    products = sum(layer.weight.numel() for layer in layers if layer.weight.shape[0] != 257)
    # Of each product 4 bytes become 2, and the copy of 2 that lives until backward is gone.
    assert more - less >= 4 * products


def freeze_in_part(family: str = "llama", dtype: torch.dtype = FP32) -> TransformersModel:
    one = tiny_model(family)
    for name, parameter in one.model.named_parameters():
        parameter.data = parameter.data.bfloat16().to(dtype)
        parameter.requires_grad_("norm" in name or "ln_" in name)
    return one


@pytest.mark.parametrize("stored", [FP32, BF16])
def test_the_estimate_knows_what_is_held(stored: torch.dtype) -> None:
    one = freeze_in_part(dtype=stored)
    held, kept = frozen_bytes(one.model, BF16)
    frozen = {name: p.numel() for name, p in one.model.named_parameters() if not p.requires_grad}
    embedding = frozen.pop("model.embed_tokens.weight")
    assert held == 2 * sum(frozen.values()) + stored.itemsize * embedding
    assert kept == (4 * sum(frozen.values()) if stored == FP32 else 0)
    assert frozen_bytes(one.model, FP32) == (4 * (sum(frozen.values()) + embedding), 0)


@pytest.mark.parametrize("tied", [False, True])
def test_a_student_with_frozen_embeddings_passes_its_start_up_check_in_half_precision(
    tied: bool, tmp_path: Path
) -> None:
    one = tiny_model("llama", layers=2, tie_word_embeddings=tied)
    for parameter in (one.model.get_input_embeddings().weight, one.model.get_output_embeddings().weight):
        parameter.data = parameter.data.bfloat16().float()
        parameter.requires_grad_(False)
    student: Any = one
    assert train_terms(tmp_path, MIXTURE[1:2], student=student, steps=2, dtype="bfloat16").steps == 2
