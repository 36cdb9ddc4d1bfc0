"""Quantisation-aware training: what trains is on the grid, what is saved is the same, and quantising that again is free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import kdtool
import pytest
import torch
from gguf.quants import dequantize, quantize
from kdtool_testing import make_run
from kdtool_testing.tiny_models import tiny_model
from kdtool_torch import self_check
from kdtool_transformers import TransformersModel
from kdtool_transformers.transforms import Qat
from safetensors.torch import load_file
from transform_students import SmallConformance, away, learn, logits, start, structure
from transformers import AutoModelForCausalLM

Q = "model.layers.1.self_attn.q_proj.weight"


class TestQatConforms(SmallConformance):
    component = Qat
    entry_point = "qat"
    lossless = False  # weights are rounded to 4 bits


def values_in_groups(weight: torch.Tensor, size: int) -> int:
    """Return the greatest number of different values in a group, those that differ by rounding being one."""
    groups = weight.reshape(-1, size).double()
    steps = groups.sort(dim=1).values.diff(dim=1)
    return int((steps > 1e-4 * (groups.amax(1) - groups.amin(1))[:, None]).sum(dim=1).max()) + 1


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2", "gemma2"])
def test_what_is_saved_computes_what_was_trained(family: str, tied: bool, tmp_path: Path) -> None:
    student, plain = (tiny_model(family, tie_word_embeddings=tied) for _ in range(2))
    training = start(Qat, student, tmp_path)
    assert away(logits(student.model), logits(plain.model)) > 0.01  # 4 bits are not all bits
    assert student.model.state_dict().keys() == plain.model.state_dict().keys(), "checkpoints know the plain names"
    self_check(student)
    learn(student)
    learnt = logits(student.model)
    kept = {id(p): p.detach().clone() for p in (student.head.weight, student.model.get_input_embeddings().weight)}
    next(training, None)
    assert structure(student) == structure(plain)
    assert student.facts == plain.facts
    assert all(p.equal(kept[id(p)]) for p in (student.head.weight, student.model.get_input_embeddings().weight))
    student.save(tmp_path / "model")
    assert away(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), learnt) < 1e-5


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("size", [16, 32])
def test_saved_weights_lie_on_the_grid(bits: int, size: int, tmp_path: Path) -> None:
    student = tiny_model(hidden_size=64, intermediate_size=96)
    before = student.model.get_parameter(Q).detach().clone()
    training = start(Qat, student, tmp_path, bits=bits, group_size=size)
    learn(student)
    next(training, None)
    assert values_in_groups(before, size) == size
    assert values_in_groups(student.model.get_parameter(Q).detach(), size) <= 2**bits
    student.save(tmp_path / "model")
    saved = load_file(tmp_path / "model" / "model.safetensors")[Q]
    next(start(Qat, student, tmp_path, bits=bits, group_size=size), None)
    torch.testing.assert_close(student.model.get_parameter(Q).data, saved, rtol=0, atol=1e-6 * float(saved.std()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_later_quantiser_of_the_same_form_finds_the_same_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    """llama.cpp's Q4_1 has groups of 32 with a scale and an offset, too: it loses its own rounding of those, no more."""
    student = tiny_model(hidden_size=64, intermediate_size=96)
    lossy = student.model.get_parameter(Q).detach().clone()
    training = start(Qat, student, tmp_path)
    learn(student)
    next(training, None)
    saved = student.model.get_parameter(Q).detach().to(dtype).float()  # as an exporter writes it

    def error(weight: torch.Tensor) -> float:
        kind = gguf.GGMLQuantizationType.Q4_1
        again = torch.from_numpy(dequantize(quantize(weight.numpy(), kind), kind))
        return float((again - weight).square().mean().sqrt() / weight.std())

    assert error(lossy) > 0.05
    assert error(saved) < (5e-3 if dtype == torch.bfloat16 else 1e-3)


def test_gradients_reach_weights_that_are_rounded_and_checkpointing_changes_nothing(tmp_path: Path) -> None:
    student, other = tiny_model(), tiny_model()
    start(Qat, student, tmp_path)
    start(Qat, other, tmp_path)
    other.model.activation_checkpointing_enable({"use_reentrant": False})
    expected, found = learn(student), learn(other)
    assert expected.keys() == found.keys()
    assert bool(expected[Q].any())
    assert all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_student_in_half_precision_keeps_it(dtype: torch.dtype, tmp_path: Path) -> None:
    student = tiny_model("qwen2")
    student.model.to(dtype)
    training = start(Qat, student, tmp_path)
    learnt = logits(student.model)
    next(training, None)
    assert {parameter.dtype for parameter in student.model.parameters()} == {dtype}
    assert logits(student.model).equal(learnt)


def test_layers_whose_rows_are_no_whole_groups_stay_and_are_named(tmp_path: Path) -> None:
    student, plain = tiny_model(), tiny_model()
    said: list[str] = []
    next(start(Qat, student, tmp_path, make_run(tmp_path, say=said.append), bits=4, group_size=32), None)
    assert said == [
        "qat: all bits stay in 4 linear layers (down_proj): 48 weights per row is not a multiple of group_size 32"
    ]
    stayed = "model.layers.0.mlp.down_proj.weight"
    assert student.model.get_parameter(stayed).equal(plain.model.get_parameter(stayed))
    assert not student.model.get_parameter(Q).equal(plain.model.get_parameter(Q))


def test_frozen_layers_are_rounded_too_and_stay_frozen(tmp_path: Path) -> None:
    student = tiny_model()
    student.model.get_parameter(Q).requires_grad_(requires_grad=False)
    training = start(Qat, student, tmp_path)
    learnt = logits(student.model)
    next(training, None)
    assert not student.model.get_parameter(Q).requires_grad
    assert away(logits(student.model), learnt) < 1e-5


def _rounded() -> TransformersModel:
    student = tiny_model()
    start(Qat, student, Path())
    return student


def _adapted() -> TransformersModel:
    student = tiny_model()
    student.model.peft_config = {}
    student.model.peft_config["default"] = "an adapter"
    return student


@pytest.mark.parametrize(
    ("student", "size", "message"),
    [
        (tiny_model, 80, r"no row of LlamaForCausalLM's .* multiple of 80; rows have 32, 48"),
        (lambda: tiny_model("gpt2"), 32, r"GPT2LMHeadModel has none: remove the transform"),
        (_rounded, 32, r"is a FakeQuantizedLinear, .*its own phase"),
        (_adapted, 32, r"has adapters, .*its own phase"),
    ],
)
def test_what_cannot_be_rounded_is_explained(
    student: Callable[[], TransformersModel], size: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(kdtool.UsageError, match=message):
        start(Qat, student(), tmp_path, group_size=size)


def test_a_conversion_that_changes_the_model_is_refused(tmp_path: Path) -> None:
    student = tiny_model()
    training = start(Qat, student, tmp_path)
    for module in student.model.modules():
        if hasattr(module, "weight_fake_quantizer"):
            module.weight_fake_quantizer.enabled = False  # what was trained is then not what is written
            rounded = type(module.weight_fake_quantizer)(module.weight_fake_quantizer.config)
            module.register_forward_hook(lambda layer, inputs, _, own=rounded: inputs[0] @ own(layer.weight).T)
    with pytest.raises(kdtool.PluginError, match="writing weights on the grid changed the logits"):
        next(training, None)
