"""Runs in one process do not see each other, and leave the process as they found it.

The teacher has dropout, so that training draws from the process's generators: a run that another disturbed would end with
other weights. Everything is compared to the bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kdtool
import pytest

pytestmark = pytest.mark.slow

Weights = dict[str, bytes]
FIRST = {"name": "first", "seeds": [3], "trainer.dtype": "bfloat16"}
SECOND = {"name": "second", "seeds": [0]}


@pytest.fixture(scope="module")
def short_recipe(small_recipe: dict[str, Any], teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Seconds long; its teacher is in bfloat16 and, like the student cut from it, trains with dropout."""
    folder = tmp_path_factory.mktemp("dropout")
    for file in teacher_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.2}), encoding="utf-8")
    return {
        **{key: value for key, value in small_recipe.items() if key not in {"control", "exporters", "signals"}},
        "teacher": {"use": "causal-lm", "model": str(folder), "dtype": "bfloat16"},
        "evaluators": {"perplexity": {"limit": 2, "characters": 200}},
    }


@pytest.fixture(scope="module")
def alone(short_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Return the final weights of the second run in a process of its own, whose standard streams are closed."""
    folder = tmp_path_factory.mktemp("alone")
    code = (
        "import json, sys, kdtool, torch; torch.set_num_threads(1)\n"
        "sys.stdout.close(); sys.stderr.close()\n"
        "kdtool.run(*json.loads(sys.argv[1]), store='store')"
    )
    command = [sys.executable, "-c", code, json.dumps([short_recipe, SECOND])]
    subprocess.run(command, check=True, cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return _weights(folder / "runs" / "second")


def _weights(folder: Path) -> Weights:
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("model.safetensors")}
    assert found
    return found


def test_runs_do_not_disturb_each_other_in_sequence_or_in_threads(short_recipe: dict[str, Any], alone: Weights) -> None:
    async def with_running_loop() -> kdtool.Results:  # as in a notebook
        return kdtool.run(short_recipe, SECOND, out="sequence", store="sequence")

    first = _weights(kdtool.run(short_recipe, FIRST, out="sequence", store="sequence").folder)
    second = _weights(asyncio.run(with_running_loop()).folder)
    assert second == alone
    assert sorted(second.values()) != sorted(first.values())

    together = threading.Barrier(2)

    def one(settings: dict[str, Any]) -> Weights:
        together.wait()
        return _weights(kdtool.run(short_recipe, settings, out="threads", store="threads").folder)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(one, (FIRST, SECOND))) == [first, second]


def test_run_leaves_the_process_as_it_was(short_recipe: dict[str, Any]) -> None:
    import transformers

    kdtool.run(short_recipe, {**SECOND, "evaluators": False}, store="left")  # what imports change is theirs
    changed = {"name": "left", "evaluators": False, "train.steps": 2, "trainer.dtype": "bfloat16"}
    transformers.set_seed(11)
    before = _of_process()
    kdtool.run(short_recipe, changed, store="left")
    after = _of_process()
    assert {name for name in before if before[name] != after[name]} == set()


def _of_process() -> dict[str, Any]:
    import numpy as np
    import torch
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from transformers.utils import logging as of_transformers

    return {
        "random": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "initial weights": [torch.nn.init.normal_, torch.nn.init.uniform_, torch.linspace],
        "accelerate": [dict(kind._shared_state) for kind in (PartialState, AcceleratorState, GradientState)],
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "warnings": list(warnings.filters),
        "log levels": {name: logging.getLogger(name).level for name in (None, "transformers", "accelerate", "torch")},
        "bars": of_transformers.is_progress_bar_enabled(),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "streams": [sys.stdout, sys.stderr],
        "threads alive": set(threading.enumerate()),
    }


def test_turn_seeds_and_gives_generators_back_after_an_error() -> None:
    import torch
    from kdtool_torch import isolated_rng as turn

    torch.manual_seed(5)
    before = _of_process()
    with contextlib.suppress(KeyError), turn(7):
        expected = float(torch.rand(())), random.random()
        raise KeyError
    assert {name for name, value in _of_process().items() if before[name] != value} == set()
    with turn(7), turn(8):
        pass
    with turn(7):
        with turn(8):
            torch.rand(3)
        assert (float(torch.rand(())), random.random()) == expected


@pytest.fixture(autouse=True)
def _quiet(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    capsys.readouterr()
