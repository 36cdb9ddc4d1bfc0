"""Two machines with one store: in a bucket of a real S3 server that fails at times, and in a shared folder.

A machine is a folder for local files (`KDTOOL_STORE_CACHE`) and one for runs.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_cloud.store import ObjectStore, leases, open_objects
from kdtool_cloud.store.artefacts import checked_name, read_limit
from kdtool_cloud.store.leases import Holder, hold
from kdtool_cloud.store.objects import FolderObjects
from kdtool_cloud.store.snapshots import RunFiles

HERE = Path(__file__).parent
Run = Callable[..., kdtool.Results]


@pytest.fixture
def run(tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the recipe on a machine."""

    def run_on(machine: str, store: str, settings: dict[str, Any] | None = None, **options: Any) -> kdtool.Results:
        monkeypatch.setenv("KDTOOL_STORE_CACHE", str(tmp_path / machine / "stores"))
        return kdtool.run(recipe, settings, out=tmp_path / machine / "runs", store=store, **options)

    return run_on


def artefacts(*roots: Path) -> dict[str, str]:
    """Digests of all artefacts' files but manifests and reports of time, by artefact and name."""
    return {
        f"{path.parent.name}/{file.relative_to(path)}": hashlib.sha256(file.read_bytes()).hexdigest()
        for root in roots
        for manifest in root.glob("*/*/manifest.json")
        for path in [manifest.parent]
        for file in path.rglob("*")
        if file.is_file() and file != manifest
    }


def store_of(machine: Path) -> Path:
    """The local folder of the one store of a machine."""
    (folder,) = (machine / "stores").iterdir()
    return folder


def test_a_second_machine_finds_everything_and_makes_only_the_rest(run: Run, address: str, tmp_path: Path) -> None:
    local = run("local", str(tmp_path / "local" / "stores" / "one"))
    first = run("first", address)
    assert not any(stage.reused for stage in first.stages)
    second = run("second", address)
    assert all(stage.reused for stage in second.stages)
    assert [value.value for value in second.measurements] == [value.value for value in local.measurements]
    found = [
        artefacts(store_of(tmp_path / name), tmp_path / name / "runs" / "toy") for name in ("local", "first", "second")
    ]
    timed = {name for name in found[0] if name.endswith(("trained.json", "history.jsonl"))}
    assert found[1] == found[2]
    assert {name: found[0][name] for name in found[0].keys() - timed} == {
        name: found[1][name] for name in found[1].keys() - timed
    }
    more = run("second", address, {"seeds": [0, 1]})
    made = {stage.name for stage in more.stages if not stage.reused}
    assert made
    assert all("seed1" in name for name in made), made
    again = run("first", address, {"seeds": [0, 1]})
    assert all(stage.reused for stage in again.stages)
    events = (tmp_path / "first" / "runs" / "toy" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum(json.loads(line)["event"] == "run_start" for line in events) == 4  # of both machines


def test_runs_elsewhere_are_listed(run: Run, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("first", address)
    monkeypatch.setenv("KDTOOL_STORE_CACHE", str(tmp_path / "second" / "stores"))
    (found,) = kdtool.runs(out=tmp_path / "second" / "runs", store=address)
    assert (found.name, found.state) == ("toy", "done")
    assert found.folder.is_relative_to(tmp_path / "second")
    assert (found.folder / "results.json").exists()


def test_a_run_of_another_machine_is_refused(run: Run, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWAL", 0.5)
    monkeypatch.setattr(leases, "EXPIRY", 30.0)
    other = Holder("elsewhere", "process 1 on other since noon")

    def refuse(_: str) -> None:
        raise AssertionError("nobody else holds it")

    refused = pytest.raises(kdtool.LockedError, match=r"in use by process 1 on other since noon; wait")
    with hold(open_objects(address), "runs/toy", other, refuse), refused:
        run("second", address)
    assert run("second", address).stages


def test_the_lease_of_a_machine_that_is_gone_is_taken_over(
    run: Run, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEWAL", 0.2)
    monkeypatch.setattr(leases, "EXPIRY", 1.0)
    left = json.dumps({"place": "elsewhere", "about": "process 1 on other"}).encode()
    assert open_objects(address).create("leases/runs+toy.3", left)
    assert run("second", address).stages


def add_answer(machine: Path, key: str) -> None:
    with closing(kdtool.open_answers(machine / "answers.sqlite")) as database:
        database.execute("INSERT INTO answer VALUES (?, '{}', '')", (key,))


def answers(machine: Path) -> list[str]:
    with closing(sqlite3.connect(machine / "answers.sqlite")) as database:
        return [key for (key,) in database.execute("SELECT key FROM answer ORDER BY key")]


def test_answers_go_from_machine_to_machine_and_are_never_lost(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEWAL", 0.5)
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    first, second = (ObjectStore(address, folder) for folder in folders)
    with first.run("one", tmp_path / "one"):
        first.open_answers()
        add_answer(folders[0], "a")
        with (
            second.run("two", tmp_path / "two"),
            pytest.raises(kdtool.LockedError, match="wait until its run has ended"),
        ):
            second.open_answers()
    with closing(kdtool.open_answers(folders[1] / "answers.sqlite")) as opened, second.run("two", tmp_path / "two"):
        (folders[1] / "answers.sqlite").unlink()  # a file that was there before is not taken for an older one
        second.open_answers()
        add_answer(folders[1], "b")
        assert opened
    assert answers(folders[1]) == ["a", "b"]
    add_answer(folders[0], "c")  # by a run that was killed before it copied its answers
    with first.run("one", tmp_path / "one"), pytest.raises(kdtool.StorageError, match="each have answers"):
        first.open_answers()
    assert answers(folders[0]) == ["a", "c"]
    for file in folders[0].glob("answers.sqlite*"):
        file.unlink()
    with first.run("one", tmp_path / "one"):
        first.open_answers()
    assert answers(folders[0]) == ["a", "b"]


def test_local_copies_are_removed_above_the_limit(
    run: Run, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDTOOL_STORE_LIMIT", "0")
    run("first", address)
    store = store_of(tmp_path / "first")
    assert list(store.glob("*/*/manifest.json")) == []
    assert all(stage.reused for stage in run("first", address).stages)
    monkeypatch.setenv("KDTOOL_STORE_LIMIT", "much")
    with pytest.raises(kdtool.UsageError, match=r"KDTOOL_STORE_LIMIT='much' is not a size"):
        read_limit()


def test_a_damaged_part_is_reported(run: Run, address: str, tmp_path: Path) -> None:
    run("first", address)
    objects = open_objects(address)
    key = next(key for key, size in objects.list("store/rows").items() if size and not key.endswith("manifest.json"))
    objects.write(key, b"x" * objects.list("store/rows")[key])
    with pytest.raises(kdtool.StorageError, match=r"is damaged: its SHA-256 is not .* Delete store/rows/"):
        run("second", address)
    assert {path.parent.suffix for path in store_of(tmp_path / "second").glob("rows/*/manifest.json")} == {".fetching"}


def test_a_tracker_s_database_is_copied_whole_and_another_file_by_that_name_as_it_is(tmp_path: Path) -> None:
    run = RunFiles(FolderObjects(tmp_path / "there"), "run", tmp_path, "machine")
    with closing(sqlite3.connect(tmp_path / "own.db")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE point (value)")  # still in the log
        content = run._content(tmp_path / "own.db")
    (tmp_path / "copy.db").write_bytes(content)
    with closing(sqlite3.connect(tmp_path / "copy.db")) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("point",)]
    (tmp_path / "own.db").write_text("text", encoding="utf-8")
    assert run._content(tmp_path / "own.db") == b"text"


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "..\\x", "C:/x"])
def test_names_that_lead_out_of_the_folder_are_refused(name: str) -> None:
    with pytest.raises(kdtool.StorageError, match="must lie below"):
        checked_name(name)


def test_addresses_that_cannot_be_opened(tmp_path: Path, run: Run) -> None:
    with pytest.raises(kdtool.UsageError, match=r"nowhere://bucket.* cannot be opened"):
        run("first", "nowhere://bucket")
    with pytest.raises(kdtool.UsageError, match="which --offline forbids"):
        run("first", "s3://bucket/x", offline=True)
    with pytest.raises(kdtool.UsageError, match=r"expected file:///FOLDER"):
        run("first", "file://relative/folder")


def test_a_server_that_ignores_conditions_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderObjects, "create", lambda self, key, content: self.write(key, content) or True)
    with pytest.raises(kdtool.UsageError, match=r"ignores the condition of a write"):
        run("first", f"file://{tmp_path}/shared")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("store", ["s3", "file"])
def test_kills_leave_nothing_half_done(store: str) -> None:
    command = [sys.executable, str(HERE / "stopped_anywhere.py"), "--kills", "10", "--store", store]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_transfers_resume() -> None:
    command = [sys.executable, str(HERE / "resumed_transfer.py"), "--megabytes", "40", "--part", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
