"""A teacher that computes elsewhere than the student: what comes back is where the batch is."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import kdtool
import pydantic
import pytest
import torch
from kdtool_testing import make_run
from kdtool_testing.tiny_models import packed_batch, save_tiny
from kdtool_torch import device as device_module
from kdtool_torch import move, named_device, pick_device
from kdtool_transformers import CausalTeacher, CausalTeacherConfig, Source
from kdtool_transformers import teacher as teacher_module

ALL = kdtool.SignalRequest(frozenset({"logits", "hidden", "attentions", "projections"}), (0, 1))


class Local(CausalTeacher):
    """The teacher in a folder."""

    class Config(CausalTeacherConfig):
        model: str = "?"

    config: Config

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        return Source(Path(self.config.model))


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [found for own in value.values() for found in tensors(own)]
    if is_dataclass(value):
        return [found for field in fields(value) for found in tensors(getattr(value, field.name))]
    return []


def test_a_named_device_changes_no_signal_and_no_fingerprint(tmp_path: Path) -> None:
    save_tiny(tmp_path, layers=2)
    run, batch = make_run(tmp_path / "run"), packed_batch()
    usual, told = (Local(Local.Config(model=str(tmp_path), device=device)) for device in (None, "cpu"))
    assert usual.kdtool_identity(run) == told.kdtool_identity(run)
    expected, found = usual.kdtool_signal(batch, ALL), told.kdtool_signal(batch, ALL)
    assert found.fingerprint == expected.fingerprint
    assert found.lazy is not None
    assert not found.lazy.head.weight.requires_grad
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        assert torch.equal(one, other)
        assert one.device == batch.input_ids.device
    assert Local.Config.model_fields["device"].json_schema_extra == kdtool.does_not_affect_results()


def test_every_tensor_of_a_batch_and_of_a_signal_moves(tmp_path: Path) -> None:
    save_tiny(tmp_path, layers=2)
    batch = packed_batch()
    batch.columns["kind"] = torch.zeros_like(batch.labels)  # type: ignore[index]
    signal = Local(Local.Config(model=str(tmp_path))).kdtool_signal(batch, ALL)
    assert signal is not None
    elsewhere = torch.device("meta")
    for record in (batch, signal):
        there = tensors(move(record, elsewhere))
        assert len(there) == len(tensors(record)) > 4
        assert {tensor.device for tensor in there} == {elsewhere}
        stayed = tensors(move(record, batch.labels.device))
        assert all(one is other for one, other in zip(stayed, tensors(record), strict=True))


def test_the_head_is_copied_beside_the_student_once(tmp_path: Path) -> None:
    save_tiny(tmp_path, layers=2)
    teacher = Local(Local.Config(model=str(tmp_path)))
    model = teacher._open(torch.device("cpu"))
    elsewhere = torch.device("meta")
    copied = teacher._head(model, elsewhere)
    assert copied.weight.device == elsewhere
    assert teacher._head(model, elsewhere) is copied
    assert teacher._head(model, torch.device("cpu")).weight.data_ptr() == model.head.weight.data_ptr()
    teacher.kdtool_close()
    assert teacher._head_beside is None


def test_a_device_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    lacks = Local(Local.Config(device="cuda:7")).kdtool_check(make_run(tmp_path), "start")
    assert len(lacks) == 1
    assert lacks[0].startswith("device: cuda:7 does not exist; this machine has cpu")
    assert Local(Local.Config(device="cpu")).kdtool_check(make_run(tmp_path), "start") == []
    with pytest.raises(pydantic.ValidationError, match="device"):
        Local.Config(device="gpu")
    with pytest.raises(pydantic.ValidationError, match="give only one of them"):
        Local.Config(device="cpu", device_map="auto")


def test_stored_signals_are_in_the_precision_that_their_name_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose GPU is faster in bfloat16 and whose CPU is not, and a batch in main memory all the same."""
    save_tiny(tmp_path, layers=2)
    monkeypatch.setattr(teacher_module, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(device_module, "_bfloat16_is_faster", lambda _: False)
    monkeypatch.setattr(device_module, "has_bfloat16", lambda: True)
    run = make_run(tmp_path / "run")
    for device, dtype in ((None, torch.bfloat16), ("cpu", torch.float32)):
        teacher = Local(Local.Config(model=str(tmp_path), device=device))
        said = teacher.kdtool_identity(run)["dtype"], teacher.kdtool_describe(run).dtype
        assert said == (str(dtype).removeprefix("torch."),) * 2
        signal = teacher.kdtool_signal(packed_batch(), ALL)
        assert signal.lazy is not None
        assert {signal.lazy.hidden.dtype, signal.lazy.head.weight.dtype, signal.hidden[1].dtype} == {dtype}


def test_a_spread_model_stays_where_it_lies_and_another_comes_to_the_batch(tmp_path: Path) -> None:
    save_tiny(tmp_path, layers=2)
    spread, other = (Local(Local.Config(model=str(tmp_path), device_map=spread)) for spread in ("auto", None))
    here, elsewhere = torch.device("cpu"), torch.device("meta")
    for teacher, second in ((spread, here), (other, elsewhere)):
        assert teacher._open(here).head.weight.device == here
        assert {weight.device for weight in teacher._open(elsewhere).model.parameters()} == {second}


def test_processes_that_were_started_together_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device() == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert pick_device() == torch.device("cuda")
    for rank, number in ((3, 3), (5, 1)):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert pick_device() == named_device("cuda") == torch.device("cuda", number)
    assert named_device("cuda:2") == torch.device("cuda", 2)


def test_an_unloaded_teacher_is_freed_and_opens_again(tmp_path: Path) -> None:
    save_tiny(tmp_path, layers=2)
    run, teacher = make_run(tmp_path / "run"), Local(Local.Config(model=str(tmp_path)))
    subject = kdtool.Subject("teacher", "teacher")
    runtime = teacher.kdtool_open(run, subject)
    assert runtime is not None
    (before,) = runtime.score(["x = 1"])
    runtime.unload()
    assert teacher._model is None
    again = teacher.kdtool_open(run, subject)
    assert again is not None
    assert list(again.score(["x = 1"])) == [before]
