"""A whole run by two processes: one store, one voice, the student that one process makes, and an error in both."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from safetensors.torch import load_file
from whole_runs import without

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
UNUSED = ("control", "evaluators", "exporters", "reporter")


def by_torchrun(recipe: dict[str, Any], folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the recipe by `kdtool run --gpus 2`, which becomes torchrun."""
    file = folder / "recipe.json"
    file.write_text(json.dumps(recipe), encoding="utf-8")
    places = ["--out", str(folder / "two"), "--store", str(folder / "shared")]
    command = [sys.executable, "-m", "kdtool", "run", str(file), "--gpus", "2", *places, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=300)


def test_two_processes_make_one_run(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = without(recipe, *UNUSED)
    recipe["train"]["steps"] = 3
    recipe["signals"]["rows_per_shard"] = 5
    divided = {**recipe, "trainer": {**recipe["trainer"], "compile": "off", "sharding": "full"}}
    done = by_torchrun(divided, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1, "rank 0 alone speaks"
    plan = by_torchrun(divided, tmp_path, "--plan").stdout
    assert "reused" in plan, plan
    assert "↻" not in plan, "the plan is that of two processes"
    events = (tmp_path / "two" / recipe["name"] / "events.jsonl").read_text(encoding="utf-8")
    assert (events.count('"event": "run_start"'), events.count('"event": "step_end"')) == (1, 3)
    (recorded,) = (found.parent for found in (tmp_path / "shared").glob("signals/*/shard-00000.json"))
    one = kdtool.run(
        {**recipe, "trainer": {**recipe["trainer"], "compile": "off", "accumulation": 2}}, out=tmp_path / "one"
    )
    (alone,) = (found.parent for found in Path(os.environ["KDTOOL_STORE"]).glob("signals/*/shard-00000.json"))
    assert sorted(path.name for path in recorded.iterdir()) == sorted(path.name for path in alone.iterdir())
    for path in alone.glob("shard-*.safetensors"):
        for name, tensor in load_file(path).items():
            torch.testing.assert_close(load_file(recorded / path.name)[name], tensor, msg=f"{path.name}: {name}")
    (found,) = (tmp_path / "two" / recipe["name"]).glob("phases/student-seed0-*/model/model.safetensors")
    expected = load_file(one.arms[0].path / "model.safetensors")
    for name, weight in load_file(found).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-4, msg=name)
    assert one.arms[0].phases["train"].tokens == json.loads((found.parents[1] / "trained.json").read_bytes())["tokens"]


def start_rank(rank: int, file: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start one of two processes without torchrun, which would end the other one when the first fails."""
    environment = {**ENVIRONMENT, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    return subprocess.Popen(
        [sys.executable, "-m", "kdtool", "run", str(file), "--out", str(file.parent / "out"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


def test_a_process_with_other_settings_ends_before_anything_is_trained(recipe: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe), encoding="utf-8")
    steps = recipe["train"]["steps"]
    ranks = [start_rank(0, file), start_rank(1, file, "--set", f"train.steps={steps + 1}")]
    try:
        said = ranks[1].communicate(timeout=120)[0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[1].returncode == 2, said
    assert "processes 0 and 1 of this run would not make the same" in said
    assert f"steps {steps} → {steps + 1}" in said
    assert not list((tmp_path / "out").rglob("model.safetensors"))


def test_two_processes_measure_what_one_does(recipe: dict[str, Any], tmp_path: Path) -> None:
    """The scores of the same student: both processes complete lines and score documents."""
    recipe = without(recipe, "control", "exporters", "reporter")
    recipe["trainer"] |= {"compile": "off", "rows_per_step": 4}
    del recipe["evaluators"]["efficiency"]
    recipe["evaluators"]["line-completion"] = {"limit": 3, "places": 30, "context": 60, "maximum_tokens": 4}
    (tmp_path / "shared").mkdir()
    one = kdtool.run(recipe, out=tmp_path / "two", store=tmp_path / "shared")
    for scores in (tmp_path / "two" / recipe["name"] / "scores", tmp_path / "shared" / "scores"):
        shutil.rmtree(scores, ignore_errors=True)
    done = by_torchrun(recipe, tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "two" / recipe["name"] / "results.json").read_text(encoding="utf-8"))
    expected = {(each.name, each.subject): each.value for each in one.measurements}
    found = {(each["name"], each["subject"]): each["value"] for each in results["measurements"]}
    assert {name for name, _ in expected} >= {"perplexity", "line-completion.exact-match"}
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-3)
    assert {stage["name"].partition("/")[0] for stage in results["stages"] if not stage["reused"]} == {"scores"}
    assert not list(tmp_path.rglob(".divided"))


def test_two_processes_answer_what_one_does(recipe: dict[str, Any], tmp_path: Path) -> None:
    """A teacher in each process answers prompts; the text is that of one teacher, and its answers are stored once."""
    library = recipe["corpus"] | {"train_files": 40}
    recipe = without(recipe, *UNUSED, "corpus", "signals")
    answers = {
        "use": "answers",
        "corpus": "corpora.library",
        "prefix_lines": 2,
        "max_tokens": 8,
        "keep_truncated": True,
    }
    recipe["corpora"] = {"library": library, "answers": answers}
    recipe["train"] = {"losses": {"ce": {}}, "steps": 1}
    one = kdtool.run(recipe, out=tmp_path / "one", store=tmp_path / "one-store")
    done = by_torchrun(recipe, tmp_path)
    assert done.returncode == 0, done.stderr
    expected, found = (sorted((tmp_path / store).glob("text/*/train.jsonl")) for store in ("one-store", "shared"))
    assert [path.read_bytes() for path in found] == [path.read_bytes() for path in expected]
    assert found[0].read_text(encoding="utf-8").count('"completion"') >= 4
    stored = [set(all_answers(tmp_path / store / "answers.sqlite")) for store in ("one-store", "shared")]
    assert stored[0] == stored[1] != set()
    assert one.stages[0].name == "text"


def all_answers(file: Path) -> list[tuple[str, str]]:
    """Return the keys and texts of the answers in a file; requests that are alike share one."""
    with closing(sqlite3.connect(file)) as database:
        return database.execute("SELECT key, json_extract(answer, '$.text') FROM answer").fetchall()
