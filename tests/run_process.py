"""The command `kdtool run` in processes of their own, for tests that kill it or take its disk away.

The processes are forked from a server that has imported everything once (spawned where there is no forkserver).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["command", "log_of", "recipe_with_faults"]

_PRELOADED = [
    "run_process",
    "kdtool._run.execute",
    "kdtool_torch.trainer.train",
    "kdtool_transformers.model",
    "kdtool_report.html",
    "transformers.models.llama.modeling_llama",
]


def recipe_with_faults(recipe: Mapping[str, Any], folder: Path) -> Path:
    """Write a recipe whose tracker is `faults.py`, with a checkpoint every third step; return its file.

    A single phase has 8 steps.
    """
    trainer = {"checkpoint_every": 3, **recipe["trainer"], "log_every": 1, "batch": 4}
    faults = {"use": f"{Path(__file__).with_name('faults.py')}:Faults"}
    evaluators = {"perplexity": {"limit": 2, "characters": 200}}
    train = {**recipe["train"], "steps": 8} if "losses" in recipe["train"] else recipe["train"]
    changed = {"trainer": trainer, "trackers": {"faults": faults}, "evaluators": evaluators, "train": train}
    file = folder / "recipe.json"
    file.write_text(json.dumps({**recipe, **changed}), encoding="utf-8")
    return file


def command(recipe: Path, out: Path, store: Path, log: Path, **environment: str) -> tuple[int, str]:
    """Run `kdtool run`; return its exit code (negative: the signal that killed it) and what it wrote to standard error."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(_PRELOADED)
    said = log.with_suffix(".said")
    arguments = ["kdtool", "run", str(recipe), "--out", str(out), "--store", str(store)]
    settings = {"FAULT_LOG": str(log), "HF_HUB_OFFLINE": "1", **environment}
    process = context.Process(target=_run, args=(arguments, settings, said))  # type: ignore[attr-defined]
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode, said.read_text(encoding="utf-8")


def log_of(file: Path) -> list[tuple[float, list[str]]]:
    """Return what the tracker logged, with times."""
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    return [(float(time), words) for time, *words in lines]


def _run(arguments: list[str], environment: Mapping[str, str], said: Path) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which processes in a shell's background ignore
    torch.set_num_threads(1)
    os.environ.update(environment)
    os.chdir(said.parent)
    with said.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = arguments
    from kdtool._cli import main

    main()
