"""Two machines of a Ray cluster that work together: the bits of torchrun, also after one of them lost its process."""

from __future__ import annotations

import json
import os
import runpy
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from whole_runs import without

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")]

ROOT = Path(__file__).resolve().parents[1]
ray_cluster = runpy.run_path(str(ROOT / "plugins/cloud/tests/ray/ray_cluster.py"))["ray_cluster"]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(recipe: dict[str, Any], folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start a run whose folder, store and output are below `folder`."""
    folder.mkdir()
    file = folder / "recipe.json"
    file.write_text(json.dumps(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "kdtool", "run", str(file), "--out", str(folder), "--store", str(folder / "store")]
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            [*command, *options], stdout=log, stderr=subprocess.STDOUT, text=True, env={**os.environ, **ENVIRONMENT}
        )


def finish(process: subprocess.Popen[str], folder: Path) -> dict[str, str]:
    """Wait for the end of a run, and return the digests of its signals and of the trained student."""
    assert process.wait(timeout=600) == 0, (folder / "log").read_text()
    found: dict[str, str] = {}
    for manifest in [*folder.rglob("signals/*/manifest.json"), *folder.rglob("phases/*/manifest.json")]:
        files = json.loads(manifest.read_bytes())["files"]
        found |= {f"{manifest.parent.name}/{name}": entry["sha256"] for name, entry in files.items()}
    return {name: digest for name, digest in found.items() if name.endswith(".safetensors")}


def kill_a_rank(stage: str, process: subprocess.Popen[str], folder: Path, event: str = "", rank: int = 1) -> None:
    """Kill the process of a rank while it makes a stage of the run, once that had the event."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        logs = folder.glob(f"small/tasks/{stage.replace('/', '-')}-*.jsonl")
        if event and not any(event in log.read_text() for log in logs):
            time.sleep(0.02)
            continue
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command = (place / "cmdline").read_bytes().split(b"\0")
                variables = (place / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if (
                b"RANK=%d" % rank in variables
                and str(folder).encode() in b" ".join(command)
                and stage.encode() in command
            ):
                os.kill(int(place.name), signal.SIGKILL)
                return
        time.sleep(0.2)
    raise AssertionError((folder / "log").read_text())


def test_machines_answer_and_measure_as_torchrun_does(recipe: dict[str, Any], tmp_path: Path) -> None:
    """The text that a teacher answers on both machines, its stored answers, and the scores of both."""
    recipe = without(recipe, "control", "exporters", "signals", "reporter")
    answers = {
        "use": "answers",
        "corpus": "corpora.library",
        "prefix_lines": 2,
        "max_tokens": 8,
        "keep_truncated": True,
    }
    recipe["corpora"] = {"library": recipe.pop("corpus") | {"train_files": 40}, "answers": answers}
    recipe["train"] = {"losses": {"ce": {}}, "steps": 1}
    recipe["trainer"] |= {"compile": "off", "rows_per_step": 4}
    recipe["evaluators"] = {"line-completion": {"limit": 3, "places": 30, "context": 60, "maximum_tokens": 4}}
    by_torchrun = start(recipe, tmp_path / "torchrun", "--gpus", "2")
    finish(by_torchrun, tmp_path / "torchrun")
    with tempfile.TemporaryDirectory(prefix="ray-") as short, ray_cluster(Path(short)) as address:
        executor = {"use": "ray", "address": address, "machines": 2}
        by_ray = start({**recipe, "executor": executor}, tmp_path / "ray")
        try:
            kill_a_rank("text", by_ray, tmp_path / "ray")
            finish(by_ray, tmp_path / "ray")
        finally:
            by_ray.kill()
    assert "its process was lost" in (tmp_path / "ray" / "log").read_text()
    expected, found = (measured_in(tmp_path / name) for name in ("torchrun", "ray"))
    assert found == expected
    assert expected["answers"] != []


def measured_in(folder: Path) -> dict[str, Any]:
    """Return the text, the stored answers, and the scores of a run and its store."""
    (text,) = folder.glob("store/text/*/train.jsonl")
    scores = {file.parent.name: sorted(file.read_bytes().splitlines()) for file in folder.rglob("scores/*/*.jsonl")}
    with closing(sqlite3.connect(folder / "store" / "answers.sqlite")) as database:
        answers = database.execute("SELECT key, json_extract(answer, '$.text') FROM answer ORDER BY key").fetchall()
    return {"text": text.read_bytes(), "answers": answers, "scores": scores}


@pytest.mark.parametrize(
    ("event", "processes"),
    [
        pytest.param("", 1, id="at-its-begin", marks=pytest.mark.nightly),
        pytest.param("kdtool_step_end", 1, id="while-gradients-are-averaged", marks=pytest.mark.nightly),
        pytest.param("kdtool_step_end", 2, id="while-another-one-is-on-its-machine"),
    ],
)
def test_machines_train_as_torchrun_does_and_replace_a_lost_process(
    event: str, processes: int, recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = without(recipe, "control", "evaluators", "exporters", "reporter")
    recipe["train"]["steps"] = 4 if not event else 200
    recipe["signals"]["rows_per_shard"] = 5
    ranks = 2 * processes
    rows = ranks * recipe["trainer"]["batch"] * recipe["trainer"].pop("accumulation", 1)
    recipe["trainer"] |= {"compile": "off", "rows_per_step": rows}
    by_torchrun = start(recipe, tmp_path / "torchrun", "--gpus", str(ranks))
    expected = finish(by_torchrun, tmp_path / "torchrun")
    assert {name.partition("-")[0] for name in expected} >= {"student"}
    with tempfile.TemporaryDirectory(prefix="ray-") as short, ray_cluster(Path(short), cores=processes) as address:
        executor = {"use": "ray", "address": address, "machines": 2, "processes": processes}
        by_ray = start({**recipe, "executor": executor}, tmp_path / "ray")
        try:
            kill_a_rank("phases/student-seed0-train", by_ray, tmp_path / "ray", event, rank=ranks - 1)
            found = finish(by_ray, tmp_path / "ray")
        finally:
            by_ray.kill()
    assert found == expected
    assert "its process was lost" in (tmp_path / "ray" / "log").read_text()
