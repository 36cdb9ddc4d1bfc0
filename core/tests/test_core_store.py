"""The store and its runs: `kdtool runs` tells them, `kdtool clean` frees what none of them needs, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import kdtool
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from kdtool._api import report
from kdtool._store.artefacts import Artefacts, clean
from kdtool._store.files import write_sealed
from kdtool._store.shared import GRAPH, register_run, run_lock


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kdtool", *arguments], capture_output=True, text=True, check=False)


def small(recipe: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**recipe, "control": False, "evaluators": False, "seeds": [0], **changes}


def contents(root: Path) -> set[Path]:
    """All files but locks and the store's mark."""
    files = {path for path in root.rglob("*") if path.is_file() and path.name != "kdtool-store.json"}
    return {path for path in files if path.suffix != ".lock" and path.name != ".lock"}


def test_only_what_no_run_needs_is_freed_and_only_when_told(recipe: dict[str, Any], tmp_path: Path) -> None:
    store = tmp_path / "store"
    kdtool.run(small(recipe, name="one"))
    kdtool.run(small(recipe, name="two"))
    assert clean(store).found == ()
    needed = contents(store)
    kdtool.run(small(recipe, name="two"), {"rows.length": 12})
    both = contents(store)
    assert clean(store).found == ()  # the first run needs the old rows, the second the new ones
    kdtool.run(small(recipe, name="two"))
    found = clean(store)
    assert {item.path.parent.name for item in found.found} == {"rows", "signals"}
    assert contents(store) == both
    said = command("clean", "--yes")
    assert "Freed" in said.stdout, said
    assert contents(store) == needed
    assert all(stage.reused for name in ("one", "two") for stage in kdtool.run(small(recipe, name=name)).stages)


def test_nothing_is_freed_while_the_disk_of_a_run_is_not_mounted(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, store, mounted = tmp_path / "disk", tmp_path / "store", os.path.ismount
    disk.mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == disk or mounted(path))
    kdtool.run(small(recipe), out=disk / "runs")
    (disk / "runs").rename(tmp_path / "elsewhere")
    monkeypatch.setattr("os.path.ismount", mounted)
    with pytest.raises(kdtool.StorageError, match=r"its disk is not mounted at .*disk. Mount it, or delete"):
        clean(store, remove=True)
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == disk or mounted(path))
    assert clean(store, remove=True).found, "the run was deleted"


def test_teacher_is_measured_once_for_all_runs_and_each_keeps_its_items(recipe: dict[str, Any], tmp_path: Path) -> None:
    small = {**recipe, "control": False, "seeds": [0]}
    kdtool.run(small, {"name": "one"})
    settings = {"name": "two", "trainer.factor": 3.0}
    planned = {stage.name: stage.action for stage in kdtool.plan(small, settings)}
    results = kdtool.run(small, settings)
    scores = {stage.name: stage.reused for stage in results.stages if stage.name.startswith("scores")}
    assert {name for name, reused in scores.items() if reused} == {"scores/nats-teacher"}
    assert {name for name in scores if planned[name] == "reuse"} == {"scores/nats-teacher"}
    assert all(found.items and found.items.is_relative_to(results.folder) for found in results.measurements)
    shutil.rmtree(tmp_path / "runs" / "one")
    assert clean(tmp_path / "store").found == ()
    shutil.rmtree(results.folder)
    assert "scores" in {found.path.parent.name for found in clean(tmp_path / "store", remove=True).found}


def test_moved_run_is_compared_without_the_store(recipe: dict[str, Any], tmp_path: Path) -> None:
    small = {**recipe, "control": False, "seeds": [0]}
    folder = kdtool.run(small).folder
    moved = folder.rename(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "store")
    assert kdtool.compare([moved, kdtool.run(small, {"name": "two"}).folder], arms=["teacher"]).comparisons


def test_work_of_an_unfinished_run_is_kept_and_other_partial_folders_go(recipe: dict[str, Any], tmp_path: Path) -> None:
    folder = kdtool.run(small(recipe)).folder
    (rows,) = (tmp_path / "store" / "rows").glob("*[0-9a-f]")
    (phase,) = (folder / "phases").glob("*[0-9a-f]")
    for made in (rows, phase):
        made.rename(made.with_name(made.name + ".partial"))
        made.with_name(made.name[:-1] + "x.partial").mkdir()  # no name of ours
    others = [made.with_name(f"{made.name[:-16]}{'0' * 16}.partial") for made in (rows, phase)]
    others.append(rows.with_name(f"{'1' * 16}.removed"))  # by a `kdtool clean` that was killed
    for other in others:
        other.mkdir()
    assert {item.path for item in clean(tmp_path / "store", remove=True).found} == set(others)
    assert not any(other.exists() for other in others)
    assert len(list(folder.glob("phases/*.partial"))) == len(list(tmp_path.glob("store/rows/*.partial"))) == 2


def test_what_a_process_works_on_is_left(recipe: dict[str, Any], tmp_path: Path) -> None:
    folder = kdtool.run(small(recipe)).folder
    partial = tmp_path / "store" / "rows" / f"{'0' * 16}.partial"
    partial.mkdir()
    with FileLock(partial.with_suffix(".lock")):
        assert clean(tmp_path / "store", remove=True).left == {partial: "another process is making it"}
        assert partial.exists()
    with run_lock(folder):  # begun, and its graph is of the run before
        said = command("clean", "--yes")
        assert said.returncode == 7
        assert "has just begun" in said.stderr
        os.utime(folder / GRAPH)
        assert [item.path for item in clean(tmp_path / "store", remove=True).found] == [partial]


def test_a_damaged_graph_or_list_of_runs_keeps_everything(recipe: dict[str, Any], tmp_path: Path) -> None:
    folder = kdtool.run(small(recipe)).folder
    (listed,) = (tmp_path / "store" / "runs").glob("*.json")
    before = contents(tmp_path / "store")
    for file in (folder / GRAPH, listed):
        whole = file.read_bytes()
        file.write_bytes(whole.replace(b"store", b"stole").replace(b"folder", b"holder"))
        said = command("clean", "--yes")
        assert said.returncode == 8
        assert f"{file} is damaged" in said.stderr
        file.write_bytes(whole)
    assert contents(tmp_path / "store") == before


@given(
    artefacts=st.sets(st.tuples(st.sampled_from(["text", "rows", "signals"]), st.integers(0, 9)), max_size=12),
    runs=st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 9))), max_size=5),
    partial=st.sets(st.integers(0, 9)),
)
def test_whatever_runs_there_are_the_rest_goes_and_theirs_stays(
    artefacts: set[tuple[str, int]], runs: list[tuple[bool, set[int]]], partial: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        store, needed = Path(scratch) / "store", set()
        register_run(store, Path(scratch) / "gone")
        for kind, number in artefacts:
            Artefacts(store).make(kind, "", f"{number}" * 64, build=lambda folder: None, waiting=print)
        for number in partial:
            (store / "rows" / f"{str(number) * 16}.partial").mkdir(parents=True)
        for index, (there, numbers) in enumerate(runs):
            folder = Path(scratch) / f"run{index}"
            register_run(store, folder)
            if there:
                nodes = {f"{n}": {"in": "store", "path": f"rows/{str(n) * 16}"} for n in numbers}
                folder.mkdir()
                write_sealed(folder / GRAPH, {"nodes": nodes, "store": str(store)})
                needed |= {str(number) * 16 for number in numbers}
        clean(store, remove=True)
        rows = {str(number) * 16 for kind, number in artefacts if kind == "rows"}
        left = {path.name for path in store.glob("*/*") if path.is_dir()}
        assert left == (rows & needed) | {f"{str(number) * 16}.partial" for number in partial} & {
            f"{name}.partial" for name in needed
        }


def test_runs_are_listed_with_what_they_are(recipe: dict[str, Any], tmp_path: Path) -> None:
    assert "no runs" in command("runs").stdout
    assert "Nothing to free" in command("clean", "--store", "nowhere").stdout
    assert not (tmp_path / "nowhere").exists()
    done = kdtool.run(small(recipe, name="finished"))
    kdtool.run(small(recipe, name="stopped"))
    (tmp_path / "runs" / "stopped" / "results.json").unlink()
    broken = kdtool.run(small(recipe, name="broken"), out="elsewhere").folder / "results.json"
    broken.write_bytes(broken.read_bytes().replace(b"broken", b"BROKEN"))
    kdtool.run(small(recipe, name="busy"))
    with run_lock(tmp_path / "runs" / "busy"):
        found = {run["name"]: run for run in json.loads(command("runs", "--json").stdout)}
        shown = command("runs").stdout
    states = {"finished": "done", "stopped": "unfinished", "broken": "damaged", "busy": "running"}
    assert {name: run["state"] for name, run in found.items()} == states
    assert (found["finished"]["figure"], found["finished"]["outcome"]) == ("", done.outcome)
    assert found["finished"]["bytes"] > 1000
    assert found["busy"]["outcome"].startswith(f"by process {os.getpid()} on ")
    assert "results.json is damaged" in found["broken"]["outcome"]
    with pytest.raises(kdtool.StorageError, match=r"results\.json is damaged.*Run the recipe again"):
        report(broken.parent)
    assert all(name in shown and state in shown for name, state in states.items())
    assert str(tmp_path / "elsewhere" / "broken") in shown


def test_what_only_looks_like_an_artefact_is_left(recipe: dict[str, Any], tmp_path: Path) -> None:
    folder = kdtool.run(small(recipe)).folder
    store, name = tmp_path / "store", "0123456789abcdef"
    for place in (store / "photos", store / "rows", folder / "notes", folder / "phases", store / "signals" / "deep"):
        for other in (place / name, place / f"{name}.partial"):
            other.mkdir(parents=True)
            (other / "mine.txt").write_text("mine", encoding="utf-8")
    for foreign in ("documents/letters", "rows/mine", "rows/.hidden.partial"):
        (store / foreign).mkdir(parents=True)
        (store / foreign / "manifest.json").write_text("{}", encoding="utf-8")
    (store / "photos" / name / "manifest.json").write_text("{}", encoding="utf-8")
    (store / "photos" / f"{'1' * 16}.removed").mkdir()
    (store / "photos" / f"{'1' * 16}.lock").touch()
    before = {path: path.stat().st_mtime_ns for path in (*store.rglob("*"), *folder.rglob("*"))}
    found = clean(store, remove=True).found
    assert found == ()
    assert {path for path in before if not path.exists() and path.suffix != ".lock"} == set()
    assert (store / "photos" / f"{'1' * 16}.lock").exists()


def test_a_folder_that_is_no_store_is_refused(recipe: dict[str, Any], tmp_path: Path) -> None:
    folder = kdtool.run(small(recipe)).folder
    photos = tmp_path / "pictures"
    (photos / "rows" / "0123456789abcdef").mkdir(parents=True)
    (photos / "rows" / "0123456789abcdef" / "manifest.json").write_text("{}", encoding="utf-8")
    (photos / "runs").mkdir()
    for place in (folder, photos, tmp_path):
        before = contents(place)
        said = command("clean", "--store", str(place), "--yes")
        assert said.returncode == 2, said
        assert "Traceback" not in said.stderr
        assert "--store" in said.stderr.partition("is not a store")[2]
        assert contents(place) == before
        assert not (place / ".lock").exists() or place == folder
