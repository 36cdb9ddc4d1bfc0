"""Servers, companions and recording are killed at random: no row is lost or double, and all bits are the same."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kdtool_teacher_vllm.command import SERVER
from kdtool_testing.tiny_models import save_tiny

CHANCE = random.Random(0)
STAND_IN = Path(__file__).with_name("vllm_stand_in.py")
CLIENT = """
import sys
from pathlib import Path

import kdtool
import torch
from kdtool_torch.caches import States
from kdtool_teacher_vllm import VLLM
from kdtool_testing import ListSource, make_run

torch.set_num_threads(1)
model, target, pairs = sys.argv[1], Path(sys.argv[2]), [pair.split(",") for pair in sys.argv[3:]]
urls, companions = map(tuple, zip(*pairs))
settings = {"model": model, "dtype": "float32", "concurrency": 2, "timeout": 20, "patience": 300}
teacher = VLLM(VLLM.Config(url=urls, companion=companions, **settings))
target.mkdir(parents=True, exist_ok=True)
numbers = torch.Generator().manual_seed(0)
rows = [
    kdtool.Row(f"r{number}", torch.randint(257, (48,), generator=numbers).tolist(), [True] * 48, [0] * 20 + [1] * 28)
    for number in range(48)
]


class Source:
    want = kdtool.SignalRequest(frozenset({"logits"}))

    def signal(self, batch, chosen=None):
        return teacher.kdtool_signal(batch, self.want)


cache = States(States.Config(rows_per_shard=4, batch=4))
recorded = cache.kdtool_record(make_run(target.parent), ListSource(rows), Source(), target)
teacher.kdtool_close()
sys.exit(recorded != len(rows))
"""


class Processes:
    """Processes that can be killed and started again, with a log of each in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.commands: dict[str, list[str]] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        if name in self.running:
            self.kill(name)
        with (self._folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.commands[name],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].communicate()

    def kill_all(self) -> None:
        for name in list(self.running):
            self.kill(name)

    def run_killed(self, name: str, kills: int, wait: Callable[[], float]) -> int:
        """Run a process to its end, and kill it or another one each time after `wait` seconds; return the kills."""
        self.start(name)
        killed = 0
        while self.running[name].poll() is None:
            time.sleep(wait())
            if killed < kills and self.running[name].poll() is None:
                killed += 1
                self.start(CHANCE.choice([*self.commands]))
        assert self.running[name].returncode == 0, (self._folder / f"{name}.log").read_text("utf-8")
        return killed


def stand_ins(model: Path, folder: Path) -> tuple[Processes, list[str]]:
    """Return two servers with their companions, and their addresses in pairs."""
    processes, pairs = Processes(folder), []
    for name in "ab":
        ports = [free_port(), free_port()]
        states = folder / f"states-{name}"
        python = [sys.executable, "-P"]
        processes.commands[f"server {name}"] = [*python, str(STAND_IN), str(model), str(states), str(ports[0]), "4"]
        companion = SERVER / "kdtool_companion.py"
        processes.commands[f"companion {name}"] = [*python, str(companion), str(states), "--port", str(ports[1])]
        pairs.append(f"http://127.0.0.1:{ports[0]}/v1,http://127.0.0.1:{ports[1]}")
    return processes, pairs


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def contents(folder: Path) -> dict[str, bytes]:
    """Return the recorded files; those of one process's part are compared by content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [4, pytest.param(30, marks=pytest.mark.nightly)])
def test_killed_servers_companions_and_recordings_lose_nothing(tmp_path: Path, wanted: int) -> None:
    save_tiny(tmp_path / "model")
    processes, pairs = stand_ins(tmp_path / "model", tmp_path)

    def record(target: Path, kills: int) -> int:
        words = ["-c", CLIENT, str(tmp_path / "model"), str(target), *pairs]
        processes.commands["client"] = [sys.executable, "-P", *words]
        return processes.run_killed("client", kills, lambda: CHANCE.uniform(0.5, 4))

    kills, rounds = 0, 0
    try:
        for name in list(processes.commands):
            processes.start(name)
        record(tmp_path / "whole" / "signals", 0)
        expected = contents(tmp_path / "whole" / "signals")
        assert expected
        while kills < wanted:
            rounds += 1
            target = tmp_path / f"round{rounds}" / "signals"
            kills += record(target, wanted - kills)
            assert contents(target) == expected, "no row is missing or double, and all have the same bits"
    finally:
        processes.kill_all()
    print(f"{kills} kills in {rounds} rounds")
