"""Experts are multiplied in the precision of autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class GroupedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the dtypes of the operands of grouped products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: set[torch.dtype] = set()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._grouped_mm.default:
            self.dtypes |= {args[0].dtype, args[1].dtype}
            self.count += 1
        return func(*args, **(kwargs or {}))


def learn(dtype: torch.dtype) -> tuple[dict[str, Tensor], GroupedProducts]:
    """Return the gradients of a student with experts under autocast to `dtype`, and its grouped products."""
    student: TransformersModel = tiny_model("mixtral", layers=2, num_local_experts=4, num_experts_per_tok=2)
    ids = torch.randint(257, (2, 16), generator=torch.Generator().manual_seed(0))
    with GroupedProducts() as products:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = student.model(ids, labels=ids).loss
        loss.backward()
    return {name: weight.grad for name, weight in student.model.named_parameters() if weight.grad is not None}, products


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_experts_are_multiplied_in_the_precision_of_autocast(dtype: torch.dtype) -> None:
    _, products = learn(dtype)
    assert products.count >= 4
    assert products.dtypes == {dtype}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft 0.21 asks for it
def test_an_adapter_on_experts_learns() -> None:
    peft = pytest.importorskip("peft")
    student: TransformersModel = tiny_model("mixtral", layers=2, num_local_experts=4, num_experts_per_tok=2)
    settings = peft.LoraConfig(r=2, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"])
    model = peft.get_peft_model(student.model, settings)
    ids = torch.randint(257, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        model(ids, labels=ids).loss.backward()
    learned = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(learned) == 4
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in learned.values())


def test_their_weights_learn_in_float32() -> None:
    (exact, _), (found, _) = learn(torch.float32), learn(torch.bfloat16)
    assert found.keys() == exact.keys()
    experts = [name for name in exact if "experts" in name]
    assert experts
    for name in experts:
        assert found[name].dtype == torch.float32
        assert float((found[name] - exact[name]).norm()) < 0.05 * float(exact[name].norm())
