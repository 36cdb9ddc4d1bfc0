"""Recordings: whole or absent after a kill, refused when damaged, read in any order."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import ListSource, make_run
from kdtool_torch import RecordedRows, collate, estimates, record_rows, recording, recording_estimates
from kdtool_torch.shards import verify
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
    folder: Path,
    teacher: Teacher | None = None,
    source: list[kdtool.Row] | None = None,
    rank: int = 0,
    world: int = 1,
    kept: Kept | None = None,
) -> Teacher:
    teacher = teacher or Teacher()
    folder.mkdir(exist_ok=True)
    run = make_run(folder, rank=rank, world=world)
    record_rows(run, ListSource(source or rows()), teacher, folder, kept or Kept(), rows_per_shard=4, batch=3)
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
        if self.calls == int(sys.argv[3]):
            while not Path(sys.argv[1], "shard-00000.json").exists() and sys.argv[4] == "0":
                time.sleep(0.01)  # it is written meanwhile
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return super().signal(batch)
t.record(Path(sys.argv[1]), Dying(), t.rows(int(sys.argv[6])), rank=int(sys.argv[4]), world=int(sys.argv[5]))
"""


def process(folder: Path, calls: int, number: int, rank: int = 0, world: int = 1) -> subprocess.Popen[str]:
    """Start a recording that kills itself when it has asked the teacher so often."""
    arguments = [str(folder), str(Path(__file__).parent), *map(str, (calls, rank, world, number))]
    return subprocess.Popen([sys.executable, "-c", DYING, *arguments], stderr=subprocess.PIPE, text=True)


def same_files(folder: Path, other: Path) -> None:
    found, expected = ({path.name: path.read_bytes() for path in own.glob("[!.]*")} for own in (folder, other))
    assert found == expected


def test_a_killed_process_is_continued(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    killed = process(folder, 3, 10)
    assert killed.communicate(timeout=60)[1] == ""
    assert killed.returncode != 0
    assert len(list(folder.glob("shard-*.json"))) == 1
    assert record(folder).calls == 3, "two of five batches were complete"
    record(tmp_path / "whole")
    same_files(folder, tmp_path / "whole")


@pytest.mark.slow
def test_killed_ranks_are_continued_by_any_number_of_them(tmp_path: Path) -> None:
    record(tmp_path / "whole", source=rows(30))
    for survivors in (1, 3):
        folder = tmp_path / f"for {survivors}"
        ranks = [process(folder, calls, 30, rank, 2) for rank, calls in enumerate((100, 2))]
        assert ranks[1].communicate(timeout=60)[1] == ""
        while not (folder / "shard-00006.json").exists():
            time.sleep(0.05)
        with pytest.raises(subprocess.TimeoutExpired):  # it waits for what the dead one did not write
            ranks[0].wait(1)
        ranks[0].kill()
        ranks[0].communicate()
        assert not (folder / "shard-00003.json").exists()
        again = [process(folder, 100, 30, rank, survivors) for rank in range(survivors)]
        assert [one.communicate(timeout=60)[1] for one in again] == [""] * survivors
        same_files(folder, tmp_path / "whole")


def test_of_several_processes_the_first_alone_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.bin.safetensors"
    path.write_bytes(b"content")
    about = {"bytes": 7, "sha256": "0" * 64}
    with pytest.raises(kdtool.StorageError, match="is damaged"):
        verify(tmp_path, "one.bin", about)
    monkeypatch.setenv("RANK", "1")
    assert verify(tmp_path, "one.bin", about) == path
    with pytest.raises(kdtool.StorageError, match="is damaged"):
        verify(tmp_path, "one.bin", {**about, "bytes": 8})


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


def test_no_byte_of_a_manifest_changes_unnoticed(tmp_path: Path) -> None:
    record(tmp_path / "s")
    path = tmp_path / "s" / "shard-00001.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(kdtool.StorageError, match="shard-00001"):
            RecordedRows(tmp_path / "s")


def test_a_file_is_hashed_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "s")
    hashed: list[str] = []

    def noting(folder: Path, name: str, manifest: Mapping[str, Any]) -> Path:
        hashed.append(name)
        return verify(folder, name, manifest)

    monkeypatch.setattr("kdtool_torch.shards.verify", noting)
    monkeypatch.setattr("kdtool_torch.shards.OPEN_SHARDS", 1)
    recorded = RecordedRows(tmp_path / "s")
    recorded.header()
    for order in ((0, 9), (9, 0, 5)):
        recorded.pieces(recorded.find(collate([rows()[i] for i in order])), "states")
    assert sorted(hashed) == ["shard-00000", "shard-00001", "shard-00002", "teacher"]


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


class Encoding(Kept):
    """Does something each time that rows are encoded, by the number of batches before."""

    def __init__(self, act: Callable[[int], None]) -> None:
        self.act = act
        self.batches = 0

    def select(self, batch: kdtool.Batch, signal: kdtool.Signal) -> Callable[[], Iterable[Mapping[str, Tensor]]]:
        encode, number = super().select(batch, signal), self.batches
        self.batches += 1

        def act_and_encode() -> Iterable[Mapping[str, Tensor]]:
            self.act(number)
            return encode()

        return act_and_encode


def test_rows_are_encoded_while_the_teacher_computes_the_next_ones_but_only_a_few_batches_behind(
    tmp_path: Path,
) -> None:
    threads, behind = set[int](), list[int]()

    def act(number: int) -> None:
        threads.add(threading.get_ident())
        if number == 0:  # the first batch waits until the teacher is as far ahead as it may be
            while teacher.calls < 4:
                time.sleep(0.01)
            time.sleep(0.1)
        behind.append(teacher.calls - number)

    teacher = Teacher()
    record(tmp_path / "s", teacher, rows(40), kept=Encoding(act))
    assert threading.get_ident() not in threads
    assert len(threads) == 1
    assert behind[0] == 4
    record(tmp_path / "plain", source=rows(40))
    same_files(tmp_path / "s", tmp_path / "plain")


def test_an_error_while_encoding_ends_the_recording_and_complete_shards_stay(tmp_path: Path) -> None:
    def act(number: int) -> None:
        if number == 3:
            raise kdtool.PluginError("cannot encode this")

    teacher = Teacher()
    with pytest.raises(kdtool.PluginError, match="cannot encode this"):
        record(tmp_path / "s", teacher, rows(400), kept=Encoding(act))
    assert teacher.calls < 20
    assert [path.name for path in (tmp_path / "s").glob("shard-*.json")] == ["shard-00000.json"]
    assert record(tmp_path / "s").calls == 3, "the first shard is used again"


def test_threads_share_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtool_torch.shards.OPEN_SHARDS", 1)
    record(tmp_path / "s", source=rows(40))
    recorded, expected = RecordedRows(tmp_path / "s"), Teacher()

    def read(thread: int) -> None:
        order = random.Random(thread)
        for _ in range(60):
            batch = collate(order.sample(rows(40), 3))
            signal = expected.signal(batch)
            assert signal.lazy is not None
            assert torch.equal(torch.cat(recorded.pieces(recorded.find(batch), "states")), signal.lazy.hidden)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(read, range(8)))
    finally:
        sys.setswitchinterval(switch)
