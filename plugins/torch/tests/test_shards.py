"""Recordings: whole or absent after a kill, refused when damaged, read in any order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import ListSource, make_run
from kdtool_torch import RecordedRows, collate, estimates, record_rows, recording, recording_estimates
from torch import Tensor


class Kept:
    """Keeps the states as they are."""

    def header(self, signal: kdtool.Signal) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        return {"scale": torch.tensor([3.0])}, {"unit": "states"}

    def select(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Callable[[], Iterable[Mapping[str, Tensor]]]:
        assert signal.lazy is not None
        rows = torch.split(signal.lazy.hidden, (batch.labels != -100).sum(1).tolist())
        return lambda: [{"states": states} for states in rows]


@dataclass
class Teacher:
    """States that follow from the tokens alone."""

    fingerprint: str = "t1"
    calls: int = 0
    want: kdtool.SignalRequest = field(default_factory=lambda: kdtool.SignalRequest(frozenset({"logits"})))

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
        self.calls += 1
        states = torch.stack([(batch.input_ids * 0.37 + h).sin() for h in range(4)], -1)[batch.labels != -100]
        return kdtool.Signal(self.fingerprint, kdtool.LazyLogits(states, kdtool.Head(torch.eye(4), 4)))


def rows(number: int = 10, length: int = 12) -> list[kdtool.Row]:
    return [
        kdtool.Row(
            f"k{i}", [(7 * i + j) % 48 for j in range(length)], [j % (i + 2) > 0 for j in range(length)], [0] * length
        )
        for i in range(number)
    ]


def record(
    folder: Path, teacher: Teacher | None = None, source: list[kdtool.Row] | None = None, kept: Kept | None = None
) -> Teacher:
    teacher = teacher or Teacher()
    folder.mkdir(exist_ok=True)
    record_rows(
        make_run(folder), ListSource(source or rows()), teacher, folder, kept or Kept(), rows_per_shard=4, batch=3
    )
    return teacher


def read_all(folder: Path) -> None:
    recorded = RecordedRows(folder)
    recorded.header()
    recorded.pieces(recorded.find(collate(rows())), "states")


def test_what_was_not_recorded_is_explained(tmp_path: Path) -> None:
    with pytest.raises(kdtool.StorageError, match="contains no recorded signals"):
        RecordedRows(tmp_path)
    record(tmp_path / "s")
    recorded = RecordedRows(tmp_path / "s")
    with pytest.raises(kdtool.StorageError, match=r"'others' was not recorded .* only \['states'\]"):
        recorded.pieces(recorded.find(collate(rows())), "others")


DYING = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_shards as t
class Dying(t.Teacher):
    def signal(self, batch):
        if self.calls == 3:
            while not Path(sys.argv[1], "shard-00000.json").exists():
                time.sleep(0.01)  # it is written meanwhile
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return super().signal(batch)
t.record(Path(sys.argv[1]), Dying())
"""


def same_files(folder: Path, other: Path) -> None:
    found, expected = ({path.name: path.read_bytes() for path in own.glob("[!.]*")} for own in (folder, other))
    assert found == expected


def test_a_killed_process_is_continued(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    arguments = [sys.executable, "-c", DYING, str(folder), str(Path(__file__).parent)]
    killed = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert killed.stderr == ""
    assert killed.returncode != 0
    assert len(list(folder.glob("shard-*.json"))) == 1
    assert record(folder).calls == 3, "two of five batches were complete"
    record(tmp_path / "whole")
    same_files(folder, tmp_path / "whole")


@pytest.mark.parametrize("name", ["teacher.safetensors", "shard-00001.safetensors", "shard-00001.json"])
@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_damage_is_noticed_and_a_remedy_named(tmp_path: Path, name: str, damage: str) -> None:
    record(tmp_path / "s")
    path = tmp_path / "s" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data if damage == "flipped" else data[:-1])
    with pytest.raises(kdtool.StorageError, match=r"run again"):
        read_all(tmp_path / "s")


def test_rows_that_were_masked_otherwise_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "s")
    other = replace(rows()[3], labelled=[True] * 12)
    with pytest.raises(kdtool.StorageError, match=r"'k3' has 11 labels"):
        RecordedRows(tmp_path / "s").find(collate([other]))


def test_another_teacher_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "s", source=rows(4))
    other = Teacher()
    other.fingerprint = "t2"
    with pytest.raises(kdtool.PluginError, match=r"t1.*t2"):
        record(tmp_path / "s", other)


def test_a_full_disk_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdtool_torch.shards._publish", full)
    with pytest.raises(kdtool.StorageError, match="No space left"):
        record(tmp_path / "s")


class AskedError(Exception):
    """Ends a recording at its first question."""


@pytest.mark.parametrize("name", ["cpu", "meta"])
def test_the_teacher_is_asked_where_students_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Placed(Teacher):
        def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
            found = {value.device for value in vars(batch).values() if isinstance(value, Tensor)}
            raise AskedError(*found)

    monkeypatch.setattr(recording, "pick_device", lambda: torch.device(name))
    with pytest.raises(AskedError) as caught:
        record(tmp_path / "s", Placed())
    assert caught.value.args == (torch.device(name),)


def test_what_recording_takes_is_counted_where_the_teacher_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = kdtool.ModelFacts(1000, 1000, 2, 8, 2, 2, 16, 50, 64, "float32", True, "t")
    asked = kdtool.PlannedSignals("signals", "cache", "teacher", kdtool.SignalRequest(frozenset({"logits"})), 10, 100)
    ahead = kdtool.RunForecast(models={"teacher": facts}, signals=(asked,))
    found = {}
    for name in ("cpu", "cuda"):
        monkeypatch.setattr(estimates, "pick_device", lambda name=name: torch.device(name))
        found[name] = next(recording_estimates(ahead, lambda *_: 3.0, lambda _: 0, 4, 2, working=7))
    on_host, on_device = found["cpu"], found["cuda"]
    assert on_host.device_bytes == 0
    assert on_device.host_bytes == 2 * 4 * 10 * 3
    assert on_device.host_bytes + on_device.device_bytes == on_host.host_bytes


@pytest.mark.parametrize("world", [1, 2])
def test_a_folder_that_is_gone_is_an_error_and_not_waited_for(tmp_path: Path, world: int) -> None:
    run = make_run(tmp_path, rank=0, world=world)
    with pytest.raises(kdtool.StorageError, match="is gone"):
        record_rows(run, ListSource(rows()), Teacher(), tmp_path / "gone", Kept(), rows_per_shard=4, batch=3)


class Failing(Kept):
    """Cannot encode the fourth batch."""

    batches = 0

    def select(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Callable[[], Iterable[Mapping[str, Tensor]]]:
        self.batches += 1
        return self.fail if self.batches == 4 else super().select(batch, signal)

    def fail(self) -> Iterable[Mapping[str, Tensor]]:
        raise kdtool.PluginError("cannot encode this")


def test_an_error_while_encoding_ends_the_recording_and_complete_shards_stay(tmp_path: Path) -> None:
    teacher = Teacher()
    with pytest.raises(kdtool.PluginError, match="cannot encode this"):
        record(tmp_path / "s", teacher, rows(400), kept=Failing())
    assert teacher.calls < 20
    assert [path.name for path in (tmp_path / "s").glob("shard-*.json")] == ["shard-00000.json"]
    assert record(tmp_path / "s").calls == 3, "the first shard is used again"
