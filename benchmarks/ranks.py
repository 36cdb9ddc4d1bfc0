"""Several processes of one run: memory of each with a divided teacher, and how soon the run ends when one of them is lost.

    python benchmarks/ranks.py memory [--processes 4] [--megabytes 600]
    python benchmarks/ranks.py lost [--kills 10]

`memory` opens a Llama with random weights as a teacher, whole and divided, takes a signal from it, and prints the memory of
the process that needs most: once with freed memory kept, as in a training on a CPU, and once with freed tensors returned to
the system, which shows what tensors need, as a GPU's allocator reuses freed ones. `lost` kills a random rank of `kdtool run
--gpus 2` at a random moment of a recording or a training, and waits until the command ends. Four minutes each on two cores,
no network; Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import kdtool
import torch
from kdtool_testing.tiny_models import packed_batch, save_tiny
from kdtool_torch.machine import tuned_malloc
from kdtool_transformers import CausalTeacher, CausalTeacherConfig, Source

ROOT = Path(__file__).resolve().parents[1]
make_model = runpy.run_path(str(ROOT / "benchmarks/student_memory.py"))["make_model"]
_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)
_STAGES = ("signals", "phases")
_HEAPS = {"kept": "glibc.malloc.tcache_count=0", "returned": "glibc.malloc.mmap_threshold=65536"}
"""Settings of the allocator: that with which `kdtool run` begins, and one that returns the memory of freed tensors."""
_PATIENCE = 120.0
"""Seconds until a stage must have begun, and until a run whose rank was killed must have ended."""


class Teacher(CausalTeacher):
    """The teacher in a folder."""

    class Config(CausalTeacherConfig):
        """Settings of the teacher."""

        model: str = "?"
        """Its folder."""

    config: Config

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        """Return where its files are."""
        return Source(Path(self.config.model))


def peak_here() -> int:
    """Return the peak resident memory of this process in bytes."""
    found = _PEAK.search(Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) * 1024 if found else 0


def signal_in_rank(folder: Path, sharding: str, heap: str) -> None:
    """Take a signal from the teacher on a rank of torchrun, and write the peak memory of the process."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    teacher = Teacher(Teacher.Config.model_validate({"model": str(folder / "model"), "sharding": sharding}))
    with tuned_malloc() if heap == "kept" else nullcontext():
        teacher.kdtool_signal(packed_batch(), kdtool.SignalRequest(frozenset({"logits"})))
    file = folder / f"{heap}-{sharding}-{torch.distributed.get_rank()}.json"
    file.write_text(json.dumps(peak_here()), encoding="utf-8")
    torch.distributed.destroy_process_group()


def compare_memory(processes: int, megabytes: float) -> dict[str, Any]:
    """Print the peak memory of a rank with a whole and with a divided teacher."""
    figures: dict[str, Any] = {"processes": processes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{make_model(folder / 'model', megabytes) / 1e6:.0f} MB of bfloat16 weights, {processes} processes")
        for heap in _HEAPS:
            peaks = [peak_of_rank(folder, sharding, heap, processes) for sharding in ("off", "full")]
            figures[heap] = peaks
            print(f"freed memory {heap}: whole {peaks[0] / 1e6:,.0f} MB, divided {peaks[1] / 1e6:,.0f} MB", end=", ")
            print(f"ratio {peaks[1] / peaks[0]:.2f}", flush=True)
    return figures


def peak_of_rank(folder: Path, sharding: str, heap: str, processes: int) -> int:
    """Return the peak resident memory of the rank that needs most."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", *torchrun, __file__, "memory", "--within", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": _HEAPS[heap]}
    subprocess.run([*command, "--sharding", sharding, "--heap", heap], check=True, env=environment)
    return max(json.loads(file.read_bytes()) for file in folder.glob(f"{heap}-{sharding}-*.json"))


def recipe_in(folder: Path) -> Path:
    """Write a recipe with a tiny teacher that records and trains for minutes."""
    save_tiny(folder / "model", layers=4)
    recipe = {
        "name": "lost",
        "corpus": {"use": "python-source", "train_files": 200, "validation_files": 2, "test_files": 2},
        "rows": {"use": "packed", "length": 64},
        "teacher": {"use": "causal-lm", "model": str(folder / "model"), "dtype": "float32"},
        "signals": {"use": "states"},
        "student": {"use": "pruned", "layers": 2},
        "trainer": {"use": "standard", "batch": 1, "dtype": "float32", "compile": "off"},
        "train": {"losses": {"forward-kl": {}}, "steps": 100_000},
    }
    file = folder / "recipe.json"
    file.write_text(json.dumps(recipe), encoding="utf-8")
    return file


def seconds_until_end(recipe: Path, stage: str, rank: int, wait: float, store: Path, out: Path) -> float:
    """Start the run, kill a rank `wait` seconds after the stage has begun, and return the seconds until the run ends."""
    run = ["run", str(recipe), "--gpus", "2", "--store", str(store), "--out", str(out)]
    if stage == "phases":
        run += ["--set", "rows.maximum_tokens=65536"]
    log = recipe.with_suffix(".log")
    with log.open("w") as file:
        started = subprocess.Popen(
            [sys.executable, "-m", "kdtool", *run],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
    root = store if stage == "signals" else out
    deadline = time.monotonic() + _PATIENCE
    while not [*root.glob(f"**/{stage}/*.partial")]:
        if time.monotonic() > deadline or started.poll() is not None:
            started.terminate()
            raise SystemExit(log.read_text(encoding="utf-8"))
        time.sleep(0.05)
    time.sleep(wait)
    os.kill(process_of(rank, recipe), signal.SIGKILL)
    begun = time.monotonic()
    code = started.wait(timeout=_PATIENCE)
    seconds = time.monotonic() - begun
    print(f"{stage}, rank {rank}, after {wait:.1f} s: ended in {seconds:.1f} s with exit code {code}", flush=True)
    return seconds


def process_of(rank: int, recipe: Path) -> int:
    """Return the process of a rank of the run."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command, variables = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
        except OSError:
            continue
        if f"RANK={rank}".encode() in variables.split(b"\0") and str(recipe).encode() in command:
            return int(place.name)
    raise SystemExit(f"rank {rank} has already ended")


def lose_ranks(kills: int) -> dict[str, Any]:
    """Print how soon runs end whose rank is killed."""
    chosen, seconds = random.Random(0), []
    with tempfile.TemporaryDirectory() as name:
        recipe = recipe_in(Path(name))
        for number in range(kills):
            stage, rank, wait = _STAGES[number % 2], chosen.randrange(2), chosen.uniform(0.5, 4)
            store = Path(name) / (f"store-{number}" if stage == "signals" else "store")
            seconds.append(seconds_until_end(recipe, stage, rank, wait, store, Path(name) / f"out-{number}"))
    print(f"median {statistics.median(seconds):.1f} s, {min(seconds):.1f} to {max(seconds):.1f} s")
    return {"seconds": seconds}


def main() -> None:
    """Measure one of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("memory", "lost"))
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--megabytes", type=float, default=600, help="of bfloat16 weights")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--within", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sharding", help=argparse.SUPPRESS)
    parser.add_argument("--heap", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within:
        signal_in_rank(options.within, options.sharding, options.heap)
        return
    memory = options.what == "memory"
    figures = compare_memory(options.processes, options.megabytes) if memory else lose_ranks(options.kills)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
