"""The transform `gguf-grid`: a phase computes with the weights of a GGUF file, and the export keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import kdtool
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from gguf_runs import run_in
from gguf_students import save_student
from kdtool_export.gguf import GGUF, GGUFGrid
from kdtool_export.gguf.settings import Mix, QuantisedMix
from kdtool_testing import TransformConformance
from kdtool_testing.tiny_models import packed_batch, tiny_model
from kdtool_torch import self_check
from kdtool_transformers import TransformersModel

UP, DOWN = "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"


class TestGGUFGridConforms(TransformConformance):
    component = GGUFGrid
    entry_point = "gguf-grid"
    lossless = False  # weights are rounded

    def student(self, folder: Path) -> kdtool.LanguageModel:
        return save_student(folder / "student")


def on_grid(student: kdtool.LanguageModel, run: kdtool.RunInfo, **settings: Any) -> Iterator[kdtool.LanguageModel]:
    """Transform the student; the next step of what is returned finishes."""
    training = GGUFGrid(GGUFGrid.Config(**settings)).kdtool_transform(student, run)
    next(training)
    return training


def states(student: TransformersModel) -> torch.Tensor:
    with torch.no_grad():
        return student.backbone(packed_batch(), kdtool.SignalRequest()).last


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.std())


def stored(run: kdtool.RunInfo, folder: Path, mix: Mix, imatrix: Literal["text", "none"]) -> dict[str, torch.Tensor]:
    """Export the student in a folder, and return two matrices of the file."""
    artifact = GGUF(GGUF.Config(type=mix, imatrix=imatrix)).kdtool_export(run, folder)
    tensors = {tensor.name: tensor for tensor in GGUFReader(artifact.path).tensors}
    names = {UP: "blk.1.ffn_up.weight", DOWN: "blk.1.ffn_down.weight"}
    return {
        path: torch.from_numpy(dequantize(tensors[name].data, tensors[name].tensor_type))
        for path, name in names.items()
    }


@pytest.mark.parametrize("imatrix", ["text", "none"])
@pytest.mark.parametrize("mix", get_args(QuantisedMix))
def test_the_grid_is_that_of_the_file_and_the_next_export_keeps_it(
    mix: QuantisedMix, imatrix: Any, tmp_path: Path
) -> None:
    student, run = save_student(tmp_path / "student", hidden=256), run_in(tmp_path / "run")
    plain = {path: student.model.get_submodule(path).weight.detach().clone() for path in (UP, DOWN)}
    expected = stored(run, tmp_path / "student", mix, imatrix)
    training = on_grid(student, run, type=mix, imatrix=imatrix)
    computed = states(student)
    next(training, None)
    assert states(student).equal(computed)
    for path in (UP, DOWN):
        assert student.model.get_submodule(path).weight.equal(expected[path])
    student.save(tmp_path / "rounded")
    again = stored(run_in(tmp_path / "again"), tmp_path / "rounded", mix, imatrix)
    for path in (UP, DOWN):
        assert error(again[path], expected[path]) <= 0.25 * error(expected[path], plain[path])


def test_gradients_are_those_of_the_rounded_weights_and_steps_are_seen(tmp_path: Path) -> None:
    student, run = save_student(tmp_path / "student"), run_in(tmp_path / "run")
    twin, settings = save_student(tmp_path / "twin"), {"type": "q4_0", "imatrix": "none"}
    next(on_grid(twin, run, **settings), None)
    on_grid(student, run, **settings)
    self_check(student)
    for model in (student, twin):
        model.backbone(packed_batch(), kdtool.SignalRequest()).last.square().mean().backward()  # type: ignore[no-untyped-call]
    own, others = (model.model.get_submodule(UP).weight for model in (student, twin))
    assert bool(own.grad.any())
    torch.testing.assert_close(own.grad, others.grad)
    before = states(student)
    own.data.neg_()  # autograd counts no version of it
    assert not states(student).equal(before)
    own.data.neg_()
    torch.testing.assert_close(states(student), before)


def test_frozen_layers_are_rounded_and_stay_frozen(tmp_path: Path) -> None:
    student, run = save_student(tmp_path / "student"), run_in(tmp_path / "run")
    student.model.get_submodule(UP).weight.requires_grad_(requires_grad=False)
    before = student.model.get_submodule(UP).weight.clone()
    next(on_grid(student, run, type="q4_0"), None)
    layer = student.model.get_submodule(UP)
    assert type(layer) is torch.nn.Linear
    assert not layer.weight.requires_grad
    assert not layer.weight.equal(before)


def test_what_cannot_be_rounded_is_explained(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run")
    with pytest.raises(kdtool.UsageError, match=r"GPT2LMHeadModel has none: leave it out"):
        on_grid(save_student(tmp_path / "gpt2", family="gpt2"), run)
    student = save_student(tmp_path / "student")
    on_grid(student, run)
    with pytest.raises(
        kdtool.UsageError, match=r"another transform of this phase changed model\.layers\.0.*a separate phase"
    ):
        on_grid(student, run)
    with pytest.raises(kdtool.UsageError, match="class gemma2"):
        on_grid(tiny_model("gemma2"), run)
