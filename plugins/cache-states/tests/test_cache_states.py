"""The cache of states: its suite, equality with the teacher's own signal, a real kill, damage, speed of reading."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
import torch
from kdtool.testing import CacheConformance, ListSource, make_run
from kdtool_cache_states import States
from kdtool_rows import collate
from kdtool_shards._files import verified

BOTH = kdtool.Want(frozenset({"logits", "hidden"}), layers=(1, 3))
WEIGHT = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
HEAD = kdtool.Head(WEIGHT, 48, WEIGHT[:, 0].clone(), scale=0.25, soft_cap=30.0)


class TestStates(CacheConformance):
    component = States
    entry_point = "states"
    settings: ClassVar = {"rows_per_shard": 4, "batch": 2}
    wants = BOTH


class TestLogitsAlone(CacheConformance):
    component = States
    entry_point = "states"
    settings: ClassVar = {"rows_per_shard": 3, "batch": 8}
    wants = kdtool.Want(frozenset({"logits"}))


class TestHiddenAlone(CacheConformance):
    component = States
    entry_point = "states"
    settings: ClassVar = {"rows_per_shard": 1, "batch": 1}
    wants = kdtool.Want(frozenset({"hidden"}), layers=(2,))


class Teacher:
    """States that follow from the tokens alone, in bfloat16, as views of larger tensors made in inference mode."""

    def __init__(self, want: kdtool.Want = BOTH) -> None:
        self.want = want
        self.fingerprint = "t1"
        self.calls = 0

    def signal(self, batch: kdtool.Batch) -> kdtool.Signal:
        self.calls += 1
        with torch.inference_mode():
            kept = batch.labels != -100
            all_states = torch.stack([(batch.input_ids * 0.37 + h).sin() for h in range(16)], -1).bfloat16()
            last = all_states[kept]
            hidden = {layer: last * (layer + 2) for layer in self.want.layers}
        lazy = kdtool.LazyLogits(last, HEAD) if "logits" in self.want.kinds else None
        return kdtool.Signal(self.fingerprint, lazy, hidden=hidden)


def rows(number: int = 10, length: int = 12) -> list[kdtool.Row]:
    return [
        kdtool.Row(
            f"k{i}", [(7 * i + j) % 48 for j in range(length)], [j % (i + 2) > 0 for j in range(length)], [0] * length
        )
        for i in range(number)
    ]


def cache() -> States:
    return States(States.Config(rows_per_shard=4, batch=3))


def record(folder: Path, teacher: Teacher | None = None, source: list[kdtool.Row] | None = None) -> Teacher:
    teacher = teacher or Teacher()
    folder.mkdir(exist_ok=True)
    cache().kdtool_record(make_run(folder), ListSource(source or rows()), teacher, folder)
    return teacher


def test_a_recalled_signal_is_the_teacher_s_own_bit_for_bit(tmp_path: Path) -> None:
    record(tmp_path / "s")
    batch = collate([rows()[i] for i in (9, 0, 4, 4)])
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


def test_only_labelled_positions_are_stored(tmp_path: Path) -> None:
    record(tmp_path / "s")
    labels = sum(int((collate([row]).labels != -100).sum()) for row in rows())
    size = sum(path.stat().st_size for path in (tmp_path / "s").glob("shard-*.safetensors"))
    assert size == pytest.approx(labels * 16 * 2 * 3, rel=0.3, abs=3 * 400)


def test_what_is_recalled_can_be_learned_from_and_is_a_copy(tmp_path: Path) -> None:
    record(tmp_path / "s")
    component = cache()
    batch = collate(rows()[:2])
    first = component.kdtool_recall(batch, BOTH, tmp_path / "s")
    assert first.lazy is not None
    assert not first.lazy.hidden.is_inference()
    kept = first.lazy.hidden.clone()
    first.lazy.hidden.zero_()
    again = component.kdtool_recall(batch, BOTH, tmp_path / "s")
    assert again.lazy is not None
    assert torch.equal(again.lazy.hidden, kept)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_cache_states as t
class Dying(t.Teacher):
    def signal(self, batch):
        if self.calls == int(sys.argv[3]):
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return super().signal(batch)
t.record(Path(sys.argv[1]), Dying())
"""


def test_a_killed_process_is_continued(tmp_path: Path) -> None:
    folder, here = tmp_path / "s", str(Path(__file__).parent)
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), here, "3"], capture_output=True, text=True, check=False
    )
    assert process.returncode != 0
    assert not process.stderr, process.stderr
    assert len(list(folder.glob("shard-*.json"))) == 1
    assert record(folder).calls == 3, "two of five batches were complete"
    record(tmp_path / "whole")
    for path in (tmp_path / "whole").iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["teacher.safetensors", "shard-00001.safetensors", "shard-00001.json"])
@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_damage_is_noticed_and_a_remedy_named(tmp_path: Path, name: str, damage: str) -> None:
    record(tmp_path / "s")
    path = tmp_path / "s" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data if damage == "flipped" else data[:-1])
    with pytest.raises(kdtool.StorageError, match=r"run again"):
        cache().kdtool_recall(collate(rows()), BOTH, tmp_path / "s")


def test_a_file_is_hashed_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "s")
    hashed: list[str] = []

    def noting(folder: Path, name: str, manifest: Mapping[str, Any]) -> Path:
        hashed.append(name)
        return verified(folder, name, manifest)

    monkeypatch.setattr("kdtool_shards._recall.verified", noting)
    monkeypatch.setattr("kdtool_shards._recall.OPEN_SHARDS", 1)
    component = cache()
    for order in ((0, 9), (9, 0, 5)):
        component.kdtool_recall(collate([rows()[i] for i in order]), BOTH, tmp_path / "s")
    assert sorted(hashed) == ["shard-00000", "shard-00001", "shard-00002", "teacher"]


def test_rows_that_were_masked_otherwise_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "s")
    other = replace(rows()[3], labelled=[True] * 12)
    with pytest.raises(kdtool.StorageError, match=r"'k3' has 11 labels"):
        cache().kdtool_recall(collate([other]), BOTH, tmp_path / "s")


def test_nothing_recorded_and_layers_not_recorded_are_explained(tmp_path: Path) -> None:
    with pytest.raises(kdtool.StorageError, match="holds no recorded signals"):
        cache().kdtool_recall(collate(rows()), BOTH, tmp_path)
    record(tmp_path / "s")
    with pytest.raises(kdtool.StorageError, match=r"layer\.7.*layer\.1"):
        cache().kdtool_recall(collate(rows()), replace(BOTH, layers=(7,)), tmp_path / "s")


def test_another_teacher_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "s", source=rows(4))
    other = Teacher()
    other.fingerprint = "t2"
    with pytest.raises(kdtool.PluginError, match=r"t1.*t2"):
        record(tmp_path / "s", other)


def test_a_teacher_that_gives_too_little_is_named(tmp_path: Path) -> None:
    class Short(Teacher):
        def signal(self, batch: kdtool.Batch) -> kdtool.Signal:
            signal = super().signal(batch)
            return replace(signal, hidden={1: signal.hidden[1]})

    with pytest.raises(kdtool.PluginError, match=r"layer\.3"):
        record(tmp_path / "s", Short())


def test_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdtool_shards._files._publish", full)
    with pytest.raises(kdtool.StorageError, match="No space left"):
        record(tmp_path / "s")


def test_manifests_hold_no_path(tmp_path: Path) -> None:
    record(tmp_path / "s")
    for path in (tmp_path / "s").glob("*.json"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
        assert json.loads(path.read_text(encoding="utf-8"))["format"] == 2
