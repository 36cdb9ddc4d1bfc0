"""Weights that are converted one by one: same values, and nothing kept of the file that they were read from."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from kdtool_testing.tiny_models import tiny_model
from kdtool_torch import release_mapping, widen
from kdtool_transformers import TransformersModel, TransformersRuntime, open_model

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere mapped files are left to the system")


def half(folder: Path, dtype: torch.dtype = torch.bfloat16) -> TransformersModel:
    """Return a model of half precision whose weights lie in a file of some megabytes."""
    saved = tiny_model("llama", hidden_size=256, intermediate_size=1024, tie_word_embeddings=True)
    saved.model.to(dtype)
    saved.save(folder)
    return open_model(folder)


def resident(folder: Path) -> int:
    """Return how many bytes of the weights' file this process has in memory."""
    entries = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text("utf-8"), flags=re.MULTILINE)
    found = [entry for entry in entries if str(folder / "model.safetensors") in entry]
    return sum(int(size) * 1024 for entry in found for size in re.findall(r"^Rss:\s*(\d+) kB", entry, re.MULTILINE))


def touch(model: TransformersModel) -> float:
    return sum(float(parameter.detach().float().sum()) for parameter in model.model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_widened_weights_are_what_they_were(dtype: torch.dtype, tmp_path: Path) -> None:
    model = half(tmp_path, dtype)
    before = {name: parameter.detach().clone() for name, parameter in model.model.named_parameters()}
    parameters = dict(model.model.named_parameters())
    widen(model.model)
    after = dict(model.model.named_parameters())
    assert all(after[name] is parameters[name] for name in before)
    assert {parameter.dtype for parameter in after.values()} == {torch.float32}
    assert all(after[name].equal(before[name].float()) for name in before)
    assert model.head.weight is model.model.get_input_embeddings().weight


@LINUX
def test_a_runtime_that_computes_in_float32_keeps_no_pages_of_the_file(tmp_path: Path) -> None:
    model = half(tmp_path)
    touch(model)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert resident(tmp_path) > 0.9 * size
    kept = model.model.get_parameter("model.norm.weight").data  # one tensor is enough to keep the file mapped
    list(TransformersRuntime(model, torch.float32).score(["a = 1\n"]))
    assert model.head.weight.dtype == torch.float32
    assert resident(tmp_path) < 0.1 * size
    assert kept.float().equal(model.model.get_parameter("model.norm.weight").data)


@LINUX
def test_pages_that_were_dropped_are_read_again(tmp_path: Path) -> None:
    model = half(tmp_path)
    before = touch(model)
    for parameter in model.model.parameters():
        release_mapping(parameter.data)
    assert touch(model) == before


def test_other_memory_is_left_as_it_is() -> None:
    weight = torch.ones(1 << 20)
    for part in (weight, weight[1:], weight[:5]):
        release_mapping(part)
    assert bool((weight == 1).all())
