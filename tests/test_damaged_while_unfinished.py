"""Damage inside what a killed run left: each file of each unfinished folder in turn, and the run goes on to the same end.

Real kills leave the folders. Every file in them is damaged: the first of each kind alone, the others of a folder at once.
A byte is changed, or the file is cut short, empty, zeroed or gone; which of these rotates over the files and starts at
random. The run that goes on makes the damaged part again, or names the file with what to do.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
from run_process import command

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 1
    path.write_bytes(content)


DAMAGE: tuple[Callable[[Path], object], ...] = (
    flip,
    lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3]),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    lambda path: path.unlink(),
)
POINTS = {
    "text": ("progress 1", "end 0"),
    "rows": ("end 0",),
    "students": ("end 0",),
    "signals": ("progress 6", "end 0", "rename 0"),
    "phases": ("step 5", "saved 0", "end 0", "rename 0"),
    "exports": ("end 0",),
    "scores": ("progress 2", "end 0"),
}
"""Points at which each stage is killed, in this order; the same run resumes after each kill."""


@pytest.fixture(scope="module")
def file(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of every stage that leaves something to go on from: answers, shards, checkpoints, samples."""
    left_out = {"control", "reporter", "corpus"}
    own = {**small_recipe["corpus"], "glob": "asyncio/*.py", "validation_share": 0.2, "test_share": 0.2}
    library = {**own, "forms": ["implement"], "train_files": 4}
    answers = {
        "use": "answers",
        "ask": "teacher",
        "form": "base",
        "corpus": "corpora.library",
        "limit": 6,
        "max_tokens": 8,
    }
    recipe = {
        **{key: value for key, value in small_recipe.items() if key not in left_out},
        "control": False,
        "corpora": {"own": own, "library": library, "answers": {**answers, "keep_truncated": True}},
        "rows": {"use": "packed", "length": 32, "maximum_tokens": 256},
        "signals": {"use": "states", "rows_per_shard": 2, "batch": 2},
        "trainer": {**small_recipe["trainer"], "checkpoint_every": 2, "log_every": 1, "compile": "off"},
        "evaluators": {"line-completion": {"documents": 2, "places": 2, "split": "validation"}},
        "trackers": {"killer": {"use": f"{Path(__file__).with_name('killer.py')}:Killer"}},
    }
    path = tmp_path_factory.mktemp("recipe") / "recipe.json"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def final(root: Path) -> dict[str, Any]:
    """Return the files of a run that do not tell the time, and its measurements."""
    timed = {"manifest.json", "history.jsonl", "trained.json", "report.html"}
    found: dict[str, Any] = {
        path.relative_to(root).as_posix(): _content(path)
        for path in root.glob("*/*/**/*")
        if path.is_file()
        and len(path.relative_to(root).parts) > 3
        and path.name not in timed
        and path.suffix != ".lock"
    }
    results = json.loads((root / "runs" / "small" / "results.json").read_bytes())
    return {**found, "measured": [[one["name"], one["subject"], one["value"]] for one in results["measurements"]]}


def _content(path: Path) -> Any:
    """Return a file's bytes; of a journal its lines in any order, of what evaluators said all but the damage they mended."""
    content = path.read_bytes()
    if path.name == "messages.json":
        return [line for line in json.loads(content) if "damaged and was removed" not in line]
    return sorted(content.splitlines()) if path.suffix == ".jsonl" else content


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("whole")
    kdtool.run(file, out=root / "runs", store=root / "store")
    return final(root)


@pytest.mark.parametrize("stage", POINTS)
def test_damage_to_any_file_of_an_unfinished_folder_changes_nothing(
    file: Path, whole: dict[str, Any], tmp_path: Path, stage: str
) -> None:
    seed = int(os.environ.get("DAMAGE_SEED") or random.SystemRandom().randrange(2**32))
    print(f"again with this damage: DAMAGE_SEED={seed}")  # shown when the test fails
    killed = tmp_path / "killed"
    killed.mkdir()
    seen: set[str] = set()
    for point in POINTS[stage]:
        code, said = command(file, killed / "runs", killed / "store", tmp_path / "log", KILL_AT=f"{stage} {point}")
        assert code == -signal.SIGKILL, said
        for number, together in enumerate(choose(killed, stage, seen), start=seed):
            copy = tmp_path / "copy"
            shutil.copytree(killed, copy)
            for kind, path in enumerate(together, start=number):
                damage(copy / path, kind)
            which = f"{', '.join(map(str, together))} after kill at {point}, damage {number % len(DAMAGE)}"
            goes_on_to(file, copy, whole, which)
            shutil.rmtree(copy)


def choose(killed: Path, stage: str, seen: set[str]) -> list[list[Path]]:
    """Return all files of the stage's unfinished folders: one of each kind not `seen` alone, and the others together."""
    partials = [path for path in killed.glob("*/**/*.partial") if path.parent.name == stage]
    files = {found: partial for partial in partials for found in partial.rglob("*") if found.is_file()}
    assert files
    alone: list[Path] = []
    others: list[Path] = []
    for path in sorted(files, reverse=True):  # the last checkpoint is the one that counts
        kind = re.sub(r"[0-9a-f]{16}|\d+", "#", path.relative_to(files[path]).as_posix())
        (others if kind in seen else alone).append(path.relative_to(killed))
        seen.add(kind)
    return [*([path] for path in alone), *([others] if others else [])]


def damage(path: Path, kind: int) -> None:
    """Change a file; one that is empty can only go."""
    (DAMAGE[kind % len(DAMAGE)] if path.stat().st_size else Path.unlink)(path)


def goes_on_to(file: Path, root: Path, whole: dict[str, Any], which: str) -> None:
    """Run on; where a damaged file is named, do what the message says, and run again."""
    try:
        kdtool.run(file, out=root / "runs", store=root / "store")
    except kdtool.StorageError as error:
        remedy = re.search(r"[Dd]elete (?:the folder )?(\S+)", str(error))
        assert remedy, f"{which}: {error}"
        print(which, error)
        shutil.rmtree(remedy[1])
        kdtool.run(file, out=root / "runs", store=root / "store")
    found = final(root)
    assert found.keys() == whole.keys(), which
    assert [name for name, content in whole.items() if found[name] != content] == [], which
