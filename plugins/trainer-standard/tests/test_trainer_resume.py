"""A phase that is killed goes on to the same weights, bit by bit; damaged checkpoints are passed over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from kdtool_trainer_standard import _checkpoints
from trainer_process import start, train_until


def process(folder: Path, *when: str) -> int:
    started = start(train_until, folder, *(when or (None,)))
    started.join(120)
    assert when or started.exitcode == 0
    return int(started.exitcode)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    process(folder)
    return folder


def steps_of(folder: Path) -> list[int]:
    lines = (folder / "checkpoints" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["step"] for line in lines]


def reports_of(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "checkpoints" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


@pytest.mark.parametrize("kills", [("step 7",), ("step 2", "saving 9", "step 13")])
def test_a_killed_phase_ends_with_the_same_bits(uninterrupted: Path, tmp_path: Path, kills: tuple[str, ...]) -> None:
    for when in kills:
        assert process(tmp_path, when) != 0
    process(tmp_path)
    assert (tmp_path / "final.safetensors").read_bytes() == (uninterrupted / "final.safetensors").read_bytes()
    assert (tmp_path / "tokens.txt").read_text() == (uninterrupted / "tokens.txt").read_text()
    assert steps_of(tmp_path) == list(range(1, 15))
    assert reports_of(tmp_path) == reports_of(uninterrupted)


def test_a_torn_checkpoint_falls_back_to_the_one_before(uninterrupted: Path, tmp_path: Path) -> None:
    assert process(tmp_path, "step 10") != 0
    newest = tmp_path / "checkpoints" / "checkpoint-9"
    with (newest / "optimizer.pt").open("r+b") as file:
        file.truncate(1000)
    process(tmp_path)
    assert (tmp_path / "final.safetensors").read_bytes() == (uninterrupted / "final.safetensors").read_bytes()


def make_checkpoint(root: Path, step: int) -> Path:
    folder = _checkpoints.start_writing(root) / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "weights").write_text(f"weights at {step}", encoding="utf-8")
    return _checkpoints.seal(folder, root)


def test_only_whole_checkpoints_are_found(tmp_path: Path) -> None:
    said: list[str] = []
    assert _checkpoints.newest_whole(tmp_path, said.append) is None
    first, second, third, fourth = (make_checkpoint(tmp_path, step) for step in (3, 12, 101, 1000))
    (fourth / "weights").unlink()
    (third / _checkpoints.MANIFEST).write_text("{", encoding="utf-8")
    unfinished = _checkpoints.start_writing(tmp_path) / "checkpoint-5000"
    unfinished.mkdir()
    assert _checkpoints.newest_whole(tmp_path, said.append) == second
    assert len(said) == 2
    assert "weights is missing" in said[0]
    assert "no readable manifest" in said[1]
    shutil.rmtree(second)
    assert _checkpoints.newest_whole(tmp_path, said.append) == first


def test_a_folder_of_the_same_step_is_replaced_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10, 10):
        make_checkpoint(tmp_path, step)
    _checkpoints.rotate(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-9"]
