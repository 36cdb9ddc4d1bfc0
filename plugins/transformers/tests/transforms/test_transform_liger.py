"""liger's kernels in a model: which modules get them, what they must compute, and that all is as before afterwards.

On a machine without a GPU plain torch stands in for the kernels: then tests show what is replaced and restored, and nothing
of the kernels themselves. Tests marked `gpu` run the kernels, where there is a GPU with liger-kernel.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import make_run
from kdtool_testing.tiny_models import gradients, greatest_difference, tiny_model
from kdtool_torch import self_check
from kdtool_transformers import fast_layers
from kdtool_transformers.transforms import Liger
from torch import Tensor
from transform_students import SmallConformance, start

HAS_KERNELS = torch.cuda.is_available() and find_spec("liger_kernel") is not None
gpu = pytest.mark.skipif(not HAS_KERNELS, reason="needs a GPU and liger-kernel")


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float, casting: str, in_place: bool) -> Tensor:
    assert (offset, casting, in_place) == (0.0, "llama", False)
    return weight * (x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return torch.nn.functional.silu(gate) * up


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, ids: None, unsqueeze_dim: int) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def turned(x: Tensor) -> Tensor:
        one, other = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-other, one], dim=-1) * sin

    return turned(q), turned(k)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain torch in place of the kernels."""
    monkeypatch.setattr(fast_layers, "kernels", lambda: fast_layers.Kernels(rms_norm, swiglu, rope))


@pytest.mark.usefixtures("stand_ins")
class TestLigerConforms(SmallConformance):
    component = Liger
    entry_point = "liger"


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", fast_layers.FAMILIES)
def test_norms_rotations_and_feed_forwards_are_replaced_and_restored(
    family: str, checkpointing: bool, tmp_path: Path
) -> None:
    student, other = tiny_model(family, layers=2), tiny_model(family, layers=2)
    expected = gradients(student, layer=1)
    if checkpointing:
        student.model.activation_checkpointing_enable({"use_reentrant": False})
    training = start(Liger, student, tmp_path)
    replaced = sorted(type(module).__name__ for module in student.model.modules() if "forward" in vars(module))
    norms = 2 * (4 if family == "qwen3" else 2) + 1
    assert [sum(name.endswith(end) for name in replaced) for end in ("RMSNorm", "MLP", "Attention")] == [norms, 2, 2]
    assert greatest_difference(gradients(student, layer=1), expected) < 1e-5
    self_check(student)
    assert not any("forward" in vars(module) for module in other.model.modules())
    assert greatest_difference(gradients(other, layer=1), expected) == 0.0, (
        "other models of the family are as they were"
    )
    next(training, None)
    assert not any("forward" in vars(module) for module in student.model.modules())
    assert greatest_difference(gradients(student, layer=1), expected) == 0.0


@pytest.mark.usefixtures("stand_ins")
def test_a_rotation_that_is_another_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The copy of the attention's forward does call what it is given."""
    student = tiny_model(layers=2)
    expected = gradients(student, layer=1)
    monkeypatch.setattr(fast_layers, "kernels", lambda: fast_layers.Kernels(rms_norm, swiglu, lambda q, k, *_: (q, k)))
    start(Liger, student, tmp_path)
    assert greatest_difference(gradients(student, layer=1), expected) > 0.01


@pytest.mark.usefixtures("stand_ins")
def test_other_families_are_explained(tmp_path: Path) -> None:
    for family in ("starcoder2", "gemma2"):
        with pytest.raises(kdtool.UsageError, match=f"qwen3 with SwiGLU, not {family}"):
            start(Liger, tiny_model(family), tmp_path)
    student = tiny_model()
    start(Liger, student, tmp_path)
    with pytest.raises(kdtool.UsageError, match=r"another transform has replaced what a Llama.* computes"):
        start(Liger, student, tmp_path)


def test_what_the_machine_lacks_is_said_beforehand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def said(device: str, *installed: str) -> list[str]:
        monkeypatch.setattr("kdtool_torch.pick_device", lambda: torch.device(device))
        monkeypatch.setattr(
            "kdtool_transformers.transforms.find_spec", lambda name: name if name in installed else None
        )
        return list(Liger(Liger.Config()).kdtool_check(make_run(tmp_path), "start"))

    (device,) = said("cpu")
    assert "torch sees none here" in device
    (triton,) = said("cuda")
    assert "pip install triton" in triton
    assert said("cuda", "triton") == []


@gpu
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", fast_layers.FAMILIES)
def test_the_kernels_give_the_same_gradients(family: str, checkpointing: bool, tmp_path: Path) -> None:
    student = tiny_model(family, layers=2, hidden_size=64, intermediate_size=128)
    student.model.to("cuda")
    expected = gradients(student, layer=1)
    if checkpointing:
        student.model.activation_checkpointing_enable({"use_reentrant": False})
    training = start(Liger, student, tmp_path)
    assert greatest_difference(gradients(student, layer=1), expected) < 1e-4
    next(training, None)
    assert greatest_difference(gradients(student, layer=1), expected) < 1e-6


@gpu
def test_the_kernels_under_autocast_are_as_near_to_float32_as_plain_layers(tmp_path: Path) -> None:
    student: Any = tiny_model(layers=2, hidden_size=64, intermediate_size=128)
    student.model.to("cuda")
    exact = gradients(student, layer=1)
    with torch.autocast("cuda", torch.bfloat16):
        plain = greatest_difference(gradients(student, layer=1), exact)
        start(Liger, student, tmp_path)
        fused = greatest_difference(gradients(student, layer=1), exact)
    assert fused < 1.5 * plain + 1e-3
