"""Servers, companions, recording and training are killed at random: no row is lost or double, and all bits are the same."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kdtool_teacher_vllm.command import SERVER
from kdtool_testing.tiny_models import save_tiny

KILLS = 30
TRAINING_KILLS = 5
STAND_IN = Path(__file__).with_name("vllm_stand_in.py")
CLIENT = """
import sys
from pathlib import Path

import kdtool
import torch
from kdtool_caches import States
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
TRAINING = """
import os
import sys

from kdtool._cli.command_line import main

os.chdir(sys.argv[1])
sys.argv = ["kdtool", "run", "recipe.yaml", "--offline"]
main()
"""


class Processes:
    """Two servers, their companions and the process that records; each can be killed and started again."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.commands: dict[str, list[str]] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.pairs = []
        for name in "ab":
            ports = [free_port(), free_port()]
            states = folder / f"states-{name}"
            self.commands[f"server {name}"] = [str(STAND_IN), str(model), str(states), str(ports[0]), "4"]
            self.commands[f"companion {name}"] = [
                str(SERVER / "kdtool_companion.py"),
                str(states),
                "--port",
                str(ports[1]),
            ]
            self.pairs.append(f"http://127.0.0.1:{ports[0]}/v1,http://127.0.0.1:{ports[1]}")

    def start(self, name: str) -> None:
        if name in self.running:
            self.kill(name)
        self.running[name] = subprocess.Popen(
            [sys.executable, "-P", *self.commands[name]],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].communicate()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def contents(folder: Path) -> dict[str, bytes]:
    """Return the recorded files; those of one process's part are compared by content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.mark.slow
def test_killed_servers_companions_and_recordings_lose_nothing(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    processes, chance = Processes(tmp_path / "model", tmp_path), random.Random(0)

    def record(target: Path) -> None:
        processes.commands["client"] = ["-c", CLIENT, str(tmp_path / "model"), str(target), *processes.pairs]
        processes.start("client")

    kills, rounds = 0, 0
    try:
        for name in list(processes.commands):
            processes.start(name)
        record(tmp_path / "whole" / "signals")
        assert processes.running["client"].wait(300) == 0
        expected = contents(tmp_path / "whole" / "signals")
        assert expected
        while kills < KILLS:
            rounds += 1
            target = tmp_path / f"round{rounds}" / "signals"
            record(target)
            while processes.running["client"].poll() is None:
                time.sleep(chance.uniform(0.5, 4))
                victim = chance.choice([*processes.commands])
                if kills < KILLS and processes.running["client"].poll() is None:
                    kills += 1
                    processes.start(victim)
            assert processes.running["client"].returncode == 0
            assert contents(target) == expected, "no row is missing or double, and all have the same bits"
    finally:
        for name in list(processes.running):
            processes.kill(name)
    print(f"{kills} kills in {rounds} rounds")


@pytest.mark.slow
def test_a_training_that_is_killed_with_its_servers_ends_with_the_same_weights(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    processes, chance = Processes(tmp_path / "model", tmp_path), random.Random(1)
    urls, companions = zip(*(pair.split(",") for pair in processes.pairs), strict=True)
    recipe = {
        "name": "run",
        "corpus": {"use": "python-source"},
        "rows": {"use": "packed", "length": 64, "maximum_tokens": 8192},
        "teacher": {
            "use": "vllm", "url": urls, "companion": companions, "model": str(tmp_path / "model"), "dtype": "float32",
            "licence": "mit", "timeout": 20,
        },
        "student": {"use": "gpt", "layers": 1, "hidden": 32, "heads": 2},
        "trainer": {"use": "standard", "batch": 2, "checkpoint_every": 5},
        "train": {"losses": {"forward-kl": {}}, "steps": 60},
    }  # fmt: skip

    def train(target: Path) -> None:
        target.mkdir(exist_ok=True)
        (target / "recipe.yaml").write_text(json.dumps(recipe))
        processes.commands["client"] = ["-c", TRAINING, str(target)]
        processes.start("client")

    def weights(target: Path) -> bytes:
        (file,) = target.rglob("model/model.safetensors")
        return file.read_bytes()

    kills = 0
    try:
        for name in list(processes.commands):
            processes.start(name)
        train(tmp_path / "whole")
        assert processes.running["client"].wait(300) == 0
        train(tmp_path / "killed")
        while processes.running["client"].poll() is None:
            time.sleep(chance.uniform(1, 8))
            if kills < TRAINING_KILLS and processes.running["client"].poll() is None:
                kills += 1
                processes.start(chance.choice([*processes.commands]))
        assert processes.running["client"].returncode == 0
    finally:
        for name in list(processes.running):
            processes.kill(name)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert kills
    print(f"{kills} kills")
