"""The cache of states: its suite, equality with the teacher's own signal, and a teacher that gives too little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import kdtool
import pytest
import torch
from kdtool_testing import CacheConformance, ListSource, make_run
from kdtool_testing.cache import small_rows
from kdtool_torch import collate
from kdtool_torch.caches import States

BOTH = kdtool.SignalRequest(frozenset({"logits", "hidden"}), layers=(1, 3))
WEIGHT = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
HEAD = kdtool.Head(WEIGHT, 48, WEIGHT[:, 0].clone(), scale=0.25, soft_cap=30.0)


class TestStates(CacheConformance):
    component = States
    entry_point = "states"
    settings: ClassVar = {"rows_per_shard": 4, "batch": 2}
    wants = BOTH


class TestHiddenAlone(CacheConformance):
    component = States
    entry_point = "states"
    settings: ClassVar = {"rows_per_shard": 1, "batch": 1}
    wants = kdtool.SignalRequest(frozenset({"hidden"}), layers=(2,))


class Teacher:
    """States that follow from the tokens alone, in bfloat16, as views of larger tensors made in inference mode."""

    want, fingerprint = BOTH, "t1"

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
        with torch.inference_mode():
            kept = batch.labels != -100
            all_states = torch.stack([(batch.input_ids * 0.37 + h).sin() for h in range(16)], -1).bfloat16()
            last = all_states[kept]
            hidden = {layer: last * (layer + 2) for layer in self.want.layers}
        return kdtool.Signal(self.fingerprint, kdtool.LazyLogits(last, HEAD), hidden=hidden)


def cache() -> States:
    return States(States.Config(rows_per_shard=4, batch=3))


def record(folder: Path, teacher: Teacher | None = None) -> None:
    folder.mkdir()
    cache().kdtool_record(make_run(folder), ListSource(small_rows()), teacher or Teacher(), folder)


def test_a_recalled_signal_is_the_teacher_s_own_bit_for_bit(tmp_path: Path) -> None:
    record(tmp_path / "s")
    batch = collate([small_rows()[i] for i in (9, 0, 4, 4)])
    found, own = cache().kdtool_recall(batch, BOTH, tmp_path / "s"), Teacher().signal(batch)
    assert found.lazy is not None
    assert own.lazy is not None
    assert found.lazy.hidden.dtype == torch.bfloat16
    assert torch.equal(found.lazy.hidden, own.lazy.hidden)
    assert all(torch.equal(found.hidden[layer], own.hidden[layer]) for layer in BOTH.layers)
    head = found.lazy.head
    assert (head.vocabulary, head.scale, head.soft_cap) == (48, 0.25, 30.0)
    assert torch.equal(head.weight, HEAD.weight)
    assert head.bias is not None
    assert torch.equal(head.bias, HEAD.bias)  # type: ignore[arg-type]


def test_what_is_recalled_can_be_learned_from_and_is_a_copy(tmp_path: Path) -> None:
    record(tmp_path / "s")
    component = cache()
    batch = collate(small_rows()[:2])
    first = component.kdtool_recall(batch, BOTH, tmp_path / "s")
    assert first.lazy is not None
    assert not first.lazy.hidden.is_inference()
    kept = first.lazy.hidden.clone()
    first.lazy.hidden.zero_()
    again = component.kdtool_recall(batch, BOTH, tmp_path / "s")
    assert again.lazy is not None
    assert torch.equal(again.lazy.hidden, kept)


def test_a_teacher_that_gives_too_little_is_named(tmp_path: Path) -> None:
    class Short(Teacher):
        def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
            signal = super().signal(batch)
            return replace(signal, hidden={1: signal.hidden[1]})

    with pytest.raises(kdtool.PluginError, match=r"layer\.3"):
        record(tmp_path / "s", Short())


def test_a_teacher_that_computes_nan_is_not_recorded(tmp_path: Path) -> None:
    class Sick(Teacher):
        def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
            signal = super().signal(batch)
            return replace(signal, hidden={**signal.hidden, 3: signal.hidden[3] * torch.inf})

    with pytest.raises(kdtool.KdtoolError, match=r"^the teacher of the signals in .*s computes NaN or infinity"):
        record(tmp_path / "s", Sick())
