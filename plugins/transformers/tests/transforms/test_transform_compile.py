"""Compiled layers: the same gradients, names and files, whatever lies around the layers."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import make_run
from kdtool_testing.tiny_models import gradients, greatest_difference, tiny_model
from kdtool_torch import self_check
from kdtool_transformers import TransformersModel, fast_layers
from kdtool_transformers.transforms import Compile
from transform_students import SmallConformance, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),  # dynamo's
]

NO_DROPOUT: dict[str, dict[str, Any]] = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}


@pytest.fixture
def graphs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of torch.compile but the making of machine code, which takes many seconds."""
    monkeypatch.setattr(fast_layers, "_BACKEND", "aot_eager")


@pytest.mark.usefixtures("graphs_alone")
class TestCompileConforms(SmallConformance):
    component = Compile
    entry_point = "compile"


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that were compiled, in order."""
    from torch._dynamo.backends.debugging import aot_eager

    made: list[Any] = []

    def counting(graph: Any, inputs: Any, **options: Any) -> Callable[..., Any]:
        made.append(graph)
        return aot_eager(graph, inputs, **options)

    monkeypatch.setattr(fast_layers, "_BACKEND", counting)
    return made


def test_compiled_layers_give_the_same_gradients(tmp_path: Path) -> None:
    student = tiny_model(layers=2)
    expected = gradients(student)
    names = list(student.model.state_dict())
    training = start(Compile, student, tmp_path)
    found = gradients(student)
    assert greatest_difference(found, expected) < 1e-5
    assert gradients(student) is not found
    assert all(again.equal(found[name]) for name, again in gradients(student).items())
    assert list(student.model.state_dict()) == names
    next(training, None)
    assert all(plain.equal(expected[name]) for name, plain in gradients(student).items())


@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2", "gpt2", "gemma2"])
def test_every_family_can_be_compiled_for_rows_of_any_length(
    family: str, compilations: list[Any], tmp_path: Path
) -> None:
    student = tiny_model(family, layers=3, **NO_DROPOUT.get(family, {}))
    lengths = (48, 64, 40, 56, 72, 80, 88, 96, 104, 112)
    expected = {length: gradients(student, length=length) for length in lengths}
    training = start(Compile, student, tmp_path)
    counts = []
    for length in lengths:
        assert greatest_difference(gradients(student, length=length), expected[length]) < 1e-5
        counts.append(len(compilations))
    assert 0 < counts[0] == counts[-1], "once for all layers and lengths"
    self_check(student)
    assert len(compilations) == counts[0], "what runs without gradients is not compiled"
    next(training, None)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_checkpointed_layers_are_compiled_inside(family: str, compilations: list[Any], tmp_path: Path) -> None:
    student = tiny_model(family, layers=3, **NO_DROPOUT.get(family, {}))
    expected = gradients(student)
    start(Compile, student, tmp_path)
    student.model.activation_checkpointing_enable({"use_reentrant": False})
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        assert greatest_difference(gradients(student), expected) < 1e-5
    checkpointed, few = sum(kept), len(compilations)
    assert few > 0
    student.model.activation_checkpointing_disable()
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        assert greatest_difference(gradients(student), expected) < 1e-5
    assert checkpointed < sum(kept)


def test_phases_before_do_not_count(compilations: list[Any], tmp_path: Path) -> None:
    """torch.compile gives up on code that was compiled too often; each phase begins anew."""
    with torch._dynamo.config.patch(recompile_limit=2):  # monkeypatch would leave it without this setting
        for phase in range(4):
            student = tiny_model(layers=1, hidden_size=32 + 4 * phase, head_dim=8)
            expected, before = gradients(student), len(compilations)
            training = start(Compile, student, tmp_path)
            assert greatest_difference(gradients(student), expected) < 1e-5
            assert len(compilations) > before, phase
            next(training, None)


def test_models_that_cannot_be_compiled_are_explained(tmp_path: Path) -> None:
    class Own(TransformersModel):
        def __init__(self) -> None:
            self.model = torch.nn.Linear(2, 2)

    with pytest.raises(kdtool.UsageError, match="not Linear; remove the transform"):
        start(Compile, Own(), tmp_path)
    student = tiny_model()
    start(Compile, student, tmp_path)
    with pytest.raises(kdtool.UsageError, match="compiled already"):
        start(Compile, student, tmp_path)


def test_what_the_machine_lacks_is_said_beforehand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def said() -> list[str]:
        return list(Compile(Compile.Config()).kdtool_check(make_run(tmp_path), "start"))

    monkeypatch.setattr(fast_layers, "pick_device", lambda: torch.device("cpu"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    compiler, headers = said()
    assert "there is no C++ compiler called no-such-compiler" in compiler
    assert "header files are missing" in headers
    monkeypatch.setattr(fast_layers, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(fast_layers, "find_spec", lambda name: None)
    (triton,) = said()
    assert "pip install triton" in triton
