"""Ranks other than 0 wait for what rank 0 makes, and join where they are needed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import kdtool
import pytest
from kdtool._run.artefacts import Artefacts
from kdtool._run.graph import Node, Stage
from kdtool._run.ranks import rank_and_world, wait_for


def test_torchrun_tells_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert rank_and_world() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert rank_and_world() == (0, 4)
    monkeypatch.setenv("RANK", "3")
    assert rank_and_world() == (3, 4)
    for bad in ("4", "-1", "first"):
        monkeypatch.setenv("RANK", bad)
        with pytest.raises(kdtool.UsageError, match="WORLD_SIZE=4 number no process; start several with torchrun"):
            rank_and_world()


def test_another_rank_joins_once_and_waits_until_all_is_there(tmp_path: Path) -> None:
    begun, joined = threading.Event(), threading.Event()

    def build(folder: Path) -> None:
        (folder / "begun").touch()
        begun.set()
        assert joined.wait(20)
        time.sleep(0.3)
        (folder / "whole").touch()

    def join(folder: Path) -> bool:
        if not (folder / "begun").exists() or not begun.is_set():
            return False
        assert not joined.is_set(), "it took part already"
        joined.set()
        return True

    node = Node(Stage("phases", "x"), Artefacts(tmp_path), False, {}, {}, lambda run, folder: None)
    first = threading.Thread(target=lambda: node.where.make(*node.key, build=build, waiting=print))
    first.start()
    found = wait_for(node, join)
    first.join()
    assert joined.is_set()
    assert (found.path / "whole").exists()
    assert wait_for(node, join) == found, "what is there needs nobody"
