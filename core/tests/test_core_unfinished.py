"""Damage to any file that a killed process left: the run goes on to the same results, whatever stage it was in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._store.files import discard_uncommitted
from kdtool._store.shared import OWN_KINDS


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped byte": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "deleted": lambda path: path.unlink(),
}


def left_unfinished(results: kdtool.Results, kind: str) -> Path:
    """Have an artefact look as if the process had been killed before the manifest was written."""
    made = next(stage.path for stage in results.stages if stage.name.partition("/")[0] == kind)
    partial = made.rename(made.with_name(f"{made.name}.partial"))
    (partial / "manifest.json").unlink()
    if kind == "phases":
        kdtool.commit(partial, *partial.iterdir())
    return partial


@pytest.mark.parametrize("kind", ["text", "students", "rows", "signals", *OWN_KINDS])
def test_at_the_end_of_a_stage(recipe: dict[str, Any], kind: str) -> None:
    recipe = {**recipe, "seeds": [0], "control": False}
    first = kdtool.run(recipe)
    weights = (first.arms[0].path / "counts.json").read_bytes()
    names = [path.relative_to(partial) for partial in [left_unfinished(first, kind)] for path in partial.rglob("*")]
    kdtool.run(recipe)
    for number, name in enumerate(names):
        file = left_unfinished(kdtool.run(recipe), kind) / name
        if file.is_file() and file.stat().st_size:
            list(DAMAGE.values())[number % len(DAMAGE)](file)
        again = kdtool.run(recipe)
        assert again.measurements == first.measurements, name
        assert (again.arms[0].path / "counts.json").read_bytes() == weights, name


@pytest.mark.parametrize("damage", DAMAGE)
def test_in_the_midst_of_training(recipe: dict[str, Any], tmp_path: Path, damage: str) -> None:
    recipe = {**recipe, "seeds": [0], "control": False}
    whole = kdtool.run(recipe, out="whole", store="whole-store")
    (tmp_path / "toy.json").write_text(json.dumps(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "kdtool", "run", "toy.json", "--out", "killed/runs", "--store", "killed/store"]
    environment = {**os.environ, "TOY_DIE_AT": "student:3"}
    assert subprocess.run(command, env=environment, check=False, capture_output=True).returncode == 9
    (partial,) = Path("killed/runs/toy/phases").glob("*.partial")
    files = [path for path in partial.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) >= 4
    for file in files:
        shutil.copytree("killed", "copy")
        DAMAGE[damage]("copy" / file.relative_to("killed"))
        results = kdtool.run(recipe, out="copy/runs", store="copy/store")
        assert [one.value for one in results.measurements] == [one.value for one in whole.measurements], file
        history = results.arms[0].histories["train"]
        assert [report.step for report in history] == [1, 2, 3, 4], file
        shutil.rmtree("copy")


def test_while_the_checkpoints_of_a_finished_phase_are_removed(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(folder: Path) -> None:
        (folder / "state.json").unlink()
        raise KeyboardInterrupt

    recipe = {**recipe, "seeds": [0], "control": False}
    with monkeypatch.context() as patched:
        patched.setattr("kdtool._run.stages.phase_training.shutil.rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            kdtool.run(recipe)
    (partial,) = Path("runs/toy/phases").glob("*.partial")
    discard_uncommitted(partial, pytest.fail)
    assert (partial / "trained.json").exists()
    kdtool.run(recipe)
