"""Quantisation-aware training: what trains is on the grid, what is saved is the same, and quantising that again is free."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import kdtool
import pytest
import torch
from gguf.quants import dequantize, quantize
from kdtool_testing import TransformConformance, make_run
from kdtool_testing.tiny_models import tiny_model
from kdtool_torch import self_check
from kdtool_transformers import TransformersModel
from kdtool_transformers.transforms import Qat
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

IDS = torch.arange(3, 23)[None]
FAMILIES = ["llama", "qwen2", "starcoder2", "gemma2"]
Q = "model.layers.1.self_attn.q_proj.weight"


class TestQatConforms(TransformConformance):
    component = Qat
    entry_point = "qat"
    lossless = False  # weights are rounded to 4 bits

    def student(self, folder: Path) -> kdtool.LanguageModel:
        return tiny_model()


def on_grid(student: TransformersModel, folder: Path, **settings: Any) -> Iterator[kdtool.LanguageModel]:
    """Transform the student; the next step of what is returned finishes."""
    training = Qat(Qat.Config(**settings)).kdtool_transform(student, make_run(folder))
    next(training)
    return training


def learn(student: TransformersModel, steps: int = 3) -> dict[str, torch.Tensor]:
    """Take steps and return the gradients of the last."""
    length = 24
    ids = torch.randint(257, (2, length), generator=torch.Generator().manual_seed(1))
    batch = kdtool.Batch(
        input_ids=ids,
        positions=torch.arange(length).expand(2, length),
        labels=ids,
        document=torch.zeros(2, length, dtype=torch.int32),
        row_keys=("a", "b"),
    )
    model = student.model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        student.backbone(batch, kdtool.SignalRequest()).last.square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()  # type: ignore[no-any-return]


def away(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).square().mean().sqrt() / other.std())


def values_in_groups(weight: torch.Tensor, size: int) -> int:
    """Return the greatest number of different values in a group, those that differ by rounding being one."""
    groups = weight.reshape(-1, size).double()
    steps = groups.sort(dim=1).values.diff(dim=1)
    return int((steps > 1e-4 * (groups.amax(1) - groups.amin(1))[:, None]).sum(dim=1).max()) + 1


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_computes_what_was_trained(family: str, tied: bool, tmp_path: Path) -> None:
    student, plain = (tiny_model(family, tie_word_embeddings=tied) for _ in range(2))
    training = on_grid(student, tmp_path)
    assert away(logits(student.model), logits(plain.model)) > 0.01  # 4 bits are not all bits
    assert student.model.state_dict().keys() == plain.model.state_dict().keys(), "checkpoints know the plain names"
    self_check(student)
    learn(student)
    learnt = logits(student.model)
    kept = {id(p): p.detach().clone() for p in (student.head.weight, student.model.get_input_embeddings().weight)}
    next(training, None)
    assert [(name, type(module)) for name, module in student.model.named_modules()] == [
        (name, type(module)) for name, module in plain.model.named_modules()
    ]
    assert student.facts == plain.facts
    assert all(p.equal(kept[id(p)]) for p in (student.head.weight, student.model.get_input_embeddings().weight))
    student.save(tmp_path / "model")
    assert away(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), learnt) < 1e-5


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("size", [16, 32])
def test_saved_weights_lie_on_the_grid(bits: int, size: int, tmp_path: Path) -> None:
    student = tiny_model(hidden_size=64, intermediate_size=96)
    before = student.model.get_parameter(Q).detach().clone()
    training = on_grid(student, tmp_path, bits=bits, group_size=size)
    learn(student)
    next(training, None)
    assert values_in_groups(before, size) == size
    assert values_in_groups(student.model.get_parameter(Q).detach(), size) <= 2**bits
    student.save(tmp_path / "model")
    saved = load_file(tmp_path / "model" / "model.safetensors")[Q]
    next(on_grid(student, tmp_path, bits=bits, group_size=size), None)
    torch.testing.assert_close(student.model.get_parameter(Q).data, saved, rtol=0, atol=1e-6 * float(saved.std()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_later_quantiser_of_the_same_form_finds_the_same_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    """llama.cpp's Q4_1 has groups of 32 with a scale and an offset, too: it loses its own rounding of those, no more."""
    student = tiny_model(hidden_size=64, intermediate_size=96)
    lossy = student.model.get_parameter(Q).detach().clone()
    training = on_grid(student, tmp_path)
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
    on_grid(student, tmp_path)
    on_grid(other, tmp_path)
    other.model.activation_checkpointing_enable({"use_reentrant": False})
    expected, found = learn(student), learn(other)
    assert expected.keys() == found.keys()
    assert bool(expected[Q].any())
    assert all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_student_in_half_precision_keeps_it(dtype: torch.dtype, tmp_path: Path) -> None:
    student = tiny_model("qwen2")
    student.model.to(dtype)
    training = on_grid(student, tmp_path)
    learnt = logits(student.model)
    next(training, None)
    assert {parameter.dtype for parameter in student.model.parameters()} == {dtype}
    assert logits(student.model).equal(learnt)


def test_layers_whose_rows_are_no_whole_groups_stay_and_are_named(tmp_path: Path) -> None:
    student, plain = tiny_model(), tiny_model()
    said: list[str] = []
    transform = Qat(Qat.Config(bits=4, group_size=32))
    run = make_run(tmp_path, say=said.append)
    training = transform.kdtool_transform(student, run)
    next(training)
    next(training, None)
    assert said == [
        "qat: 4 linear layers (down_proj) keep all their bits: 48 weights per row is not a multiple of group_size 32"
    ]
    stayed = "model.layers.0.mlp.down_proj.weight"
    assert student.model.get_parameter(stayed).equal(plain.model.get_parameter(stayed))
    assert not student.model.get_parameter(Q).equal(plain.model.get_parameter(Q))


def test_frozen_layers_are_rounded_too_and_stay_frozen(tmp_path: Path) -> None:
    student = tiny_model()
    student.model.get_parameter(Q).requires_grad_(requires_grad=False)
    training = on_grid(student, tmp_path)
    learnt = logits(student.model)
    next(training, None)
    assert not student.model.get_parameter(Q).requires_grad
    assert away(logits(student.model), learnt) < 1e-5


def test_what_cannot_be_rounded_is_explained(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"no row of LlamaForCausalLM's .* multiple of 80; rows have 32, 48"):
        on_grid(tiny_model(), tmp_path, group_size=80)
    with pytest.raises(kdtool.UsageError, match=r"GPT2LMHeadModel has none: remove the transform"):
        on_grid(tiny_model("gpt2"), tmp_path)
    student = tiny_model()
    on_grid(student, tmp_path)
    with pytest.raises(kdtool.UsageError, match=r"is a FakeQuantizedLinear, .*its own phase"):
        on_grid(student, tmp_path)
    adapted = tiny_model()
    adapted.model.peft_config = {}
    adapted.model.peft_config["default"] = "an adapter"
    with pytest.raises(kdtool.UsageError, match=r"has adapters, .*its own phase"):
        on_grid(adapted, tmp_path)


def test_a_conversion_that_changes_the_model_is_refused(tmp_path: Path) -> None:
    student = tiny_model()
    training = on_grid(student, tmp_path)
    for module in student.model.modules():
        if hasattr(module, "weight_fake_quantizer"):
            module.weight_fake_quantizer.enabled = False  # what was trained is then not what is written
            rounded = type(module.weight_fake_quantizer)(module.weight_fake_quantizer.config)
            module.register_forward_hook(lambda layer, inputs, _, own=rounded: inputs[0] @ own(layer.weight).T)
    with pytest.raises(kdtool.PluginError, match="writing weights on the grid changed the logits"):
        next(training, None)
