"""kill -9 at random times of training: one process, two, and ever fewer of them, whichever dies first.

`KILL_SEED` repeats the times, as far as the machine does; `KILLS` is how often each kind of run is killed.
"""

from __future__ import annotations

import os
import random
from multiprocessing.connection import wait
from pathlib import Path
from time import perf_counter

import pytest
import torch
from safetensors.torch import load_file
from trainer_models import reports_of
from trainer_process import free_port, start, train_until_as_rank

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

KILLS = int(os.environ.get("KILLS", "3"))
ELASTIC = 1e-6
"""Most by which weights may differ between runs of other numbers of processes."""


def attempt(folder: Path, world: int, elastic: bool, sharding: str, victim: int = 0, seconds: float = 120.0) -> float:
    """Train as `world` processes, and kill one some seconds after the first step of this attempt was reported.

    Returns:
        Seconds from that step to the end of training; 0 if it was killed before.
    """
    folder.mkdir(exist_ok=True)
    before, port = last_step(folder), free_port()
    ranks = [
        start(train_until_as_rank, folder, None, sharding, elastic, 40, rank, world, port) for rank in range(world)
    ]
    while last_step(folder) == before and not wait([ranks[victim].sentinel], 0.01):
        pass
    began = perf_counter()
    wait([ranks[victim].sentinel], seconds)
    ranks[victim].kill()
    ranks[victim].join()
    for rank in ranks:
        if ranks[victim].exitcode != 0:  # as torchrun does
            rank.kill()
        rank.join(120)
    return perf_counter() - began if all(rank.exitcode == 0 for rank in ranks) else 0.0


def last_step(folder: Path) -> int:
    """Return when the history was last written, 0 without one."""
    file = folder / "checkpoints" / "history.jsonl"
    return file.stat().st_mtime_ns if file.exists() else 0


def history(folder: Path) -> list[list[float]]:
    """Return each step's number, tokens, loss and gradient norm."""
    return [[report[name] for name in ("step", "tokens", "loss", "gradient_norm")] for report in reports_of(folder)]


def require_same(whole: Path, killed: Path, exact: bool) -> float:
    """Compare weights and reported steps; return the greatest difference of a weight."""
    if exact:
        assert (killed / "final.safetensors").read_bytes() == (whole / "final.safetensors").read_bytes()
        assert history(killed) == history(whole)
        return 0.0
    expected, found = load_file(whole / "final.safetensors"), load_file(killed / "final.safetensors")
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=ELASTIC, msg=name)
    assert len(history(killed)) == len(history(whole))
    return max(float((found[name] - weight).abs().max()) for name, weight in expected.items())


@pytest.mark.parametrize(("worlds", "sharding"), [((1,), "off"), ((2,), "full"), ((4, 2, 1), "off")])
def test_killed_at_random_times_training_ends_as_if_it_had_not_been(
    tmp_path: Path, worlds: tuple[int, ...], sharding: str
) -> None:
    """A run that ends before it is killed is compared, and the next one begins."""
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(2**32))
    print(f"again with these times: KILL_SEED={seed}")  # shown when the test fails
    chance, elastic = random.Random(f"{seed} {worlds} {sharding}"), len(worlds) > 1
    whole = tmp_path / "whole"
    seconds = attempt(whole, worlds[-1], elastic, sharding)
    kills, ended, steps = 0, 0, list[int]()
    while kills < KILLS:
        world, folder = worlds[kills * len(worlds) // KILLS], tmp_path / f"killed-{ended}"
        if attempt(folder, world, elastic, sharding, chance.randrange(world), chance.uniform(0, 0.8 * seconds)):
            require_same(whole, folder, exact=not elastic)
            ended += 1
        else:
            kills += 1
            steps.append(len(history(folder)))
    last = tmp_path / f"killed-{ended}"
    assert attempt(last, worlds[-1], elastic, sharding)
    apart = require_same(whole, last, exact=not elastic)
    print(f"{kills} kills after steps {steps}, {ended + 1} runs ended; weights differ by at most {apart:.1g}")
