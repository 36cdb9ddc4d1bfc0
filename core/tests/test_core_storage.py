"""Every file of a run is damaged in turn: the damage is named, and partial work is not reused."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._results.files import CARD
from kdtool._store import files as committed
from kdtool._store.artefacts import Artefact, Artefacts
from kdtool._store.files import discard_uncommitted, read_sealed, write_sealed
from kdtool._store.shared import GRAPH, OWN_KINDS

PRINT = "f" * 64


def stored_files(*roots: Path) -> list[Path]:
    """All files of complete artefacts, manifests too; model cards are no part of them."""
    manifests = [found for root in roots for found in root.glob("*/*/manifest.json")]
    return sorted(
        file for found in manifests for file in found.parent.rglob("*") if file.is_file() and file.name != CARD
    )


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def depending_on(folder: Path, store: Path, file: Path) -> list[Path]:
    """The artefacts that are made from the one that holds a file, directly or through others."""
    nodes = json.loads((folder / GRAPH).read_bytes())["nodes"]
    where = {name: {"store": store, "run": folder}[node["in"]] / node["path"] for name, node in nodes.items()}
    found = {name for name, path in where.items() if file.is_relative_to(path)}
    while more := {name for name, node in nodes.items() if found & set(node["inputs"].values())} - found:
        found |= more
    return [path for name, path in where.items() if name in found and not file.is_relative_to(path)]


def test_a_flipped_byte_in_any_stored_file_is_named_before_anything_is_made_from_it(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe = {**recipe, "seeds": [0]}
    results = kdtool.run(recipe)
    store, folder = tmp_path / "store", results.folder
    files = stored_files(store, folder)
    kinds = {file.relative_to(tmp_path).parts[-3 if file.parent.name != "model" else -4] for file in files}
    assert kinds == {"text", "students", "rows", "signals", "phases", "exports", "scores"}
    generator = random.Random(0)
    for file in files:
        whole = file.read_bytes()
        if not whole:  # a split without documents
            continue
        flip(file, generator.randrange(len(whole)))
        gone = [(path, path.rename(path.with_name(f"{path.name}.aside"))) for path in depending_on(folder, store, file)]
        try:
            again = kdtool.run(recipe)
            assert not gone, "something was made from a damaged file"
            assert again.measurements == results.measurements
        except kdtool.StorageError as error:
            assert str(file) in str(error)
        for path, aside in gone:
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
        file.write_bytes(whole)
    assert all(stage.reused for stage in kdtool.run(recipe).stages)


def test_a_run_that_reuses_everything_reads_no_rows_signals_or_models(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kdtool.run(recipe)
    hashed: list[Path] = []
    hash_of = committed._hash
    monkeypatch.setattr(committed, "_hash", lambda path: hashed.append(path) or hash_of(path))  # type: ignore[func-returns-value]
    committed._digests.clear()
    assert all(stage.reused for stage in kdtool.run(recipe).stages)
    assert hashed
    assert not [path for path in hashed if path.name in {"signal.json", "export.json"}]
    assert not [path for path in hashed if path.parent.name == "model" or path.suffix == ".safetensors"]


def test_a_missing_file_is_named(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = {**recipe, "control": False, "evaluators": False, "seeds": [0]}
    kdtool.run(recipe)
    for pattern in ("rows/*/rows.json", "text/*/manifest.json"):
        (file,) = (tmp_path / "store").glob(pattern)
        whole = file.read_bytes()
        file.unlink()
        with pytest.raises(kdtool.StorageError, match=rf"{file.name} is missing"):
            kdtool.run(recipe)
        file.write_bytes(whole)


def test_every_byte_of_a_sealed_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "sealed.json"
    write_sealed(file, {"a": 1.5, "b": ["ä", None]})
    whole = file.read_bytes()
    assert read_sealed(file, "") == whole
    for place in range(len(whole)):
        flip(file, place)
        with pytest.raises(kdtool.StorageError, match=r"sealed\.json is damaged.*\. Write it anew"):
            read_sealed(file, "Write it anew")
        file.write_bytes(whole)
    file.write_bytes(b"")
    with pytest.raises(kdtool.StorageError):
        read_sealed(file, "")


def test_a_damaged_record_of_the_last_run_keeps_nobody_from_the_next(recipe: dict[str, Any]) -> None:
    alone = {**recipe, "control": False, "evaluators": False, "seeds": [0]}
    folder = kdtool.run(alone).folder
    flip(folder / GRAPH, 100)
    assert {stage.action for stage in kdtool.plan(alone)} == {"reuse"}
    assert all(stage.reused for stage in kdtool.run(alone).stages)
    assert json.loads((folder / GRAPH).read_bytes())["nodes"]


def attempt(root: Path, build: Any) -> Path:
    return Artefacts(root).make("kind", "label", PRINT, build=build, waiting=print).path


def test_what_a_killed_attempt_left_of_its_manifest_is_no_part_of_the_artefact(tmp_path: Path) -> None:
    partial = Artefacts(tmp_path).path_of("kind", "label", PRINT).with_suffix(".partial")
    partial.mkdir(parents=True)
    for left in ("manifest.json.writing", "manifest.json", ".seconds.writing"):
        (partial / left).write_text("half", encoding="utf-8")
    write_sealed(partial / ".seconds", {"seconds": 0.5})
    attempt(tmp_path, lambda folder: (folder / "file").write_text("content", encoding="utf-8"))
    found = Artefacts(tmp_path).find("kind", "label", PRINT)
    assert found is not None
    assert sorted(path.name for path in found.path.iterdir()) == ["file", "manifest.json"]
    assert found.seconds >= 0.5


@pytest.mark.parametrize("damage", [b"", b"\0" * 80, b"{}", b"half"])
def test_damage_to_the_time_that_was_spent_is_time_forgotten(tmp_path: Path, damage: bytes) -> None:
    store = Artefacts(tmp_path)
    partial = store.path_of("kind", "label", PRINT).with_suffix(".partial")
    partial.mkdir(parents=True)
    (partial / "kept").write_text("kept", encoding="utf-8")
    kdtool.commit(partial, partial / "kept")
    (partial / ".seconds").write_bytes(damage)
    said: list[str] = []
    made = store.make("kind", "label", PRINT, build=lambda _: None, waiting=said.append)
    assert (made.path / "kept").exists()
    assert made.seconds < 10
    assert [line for line in said if ".seconds is damaged: the time that was spent before is not counted" in line]


def test_killed_just_before_the_rename_nothing_is_made_again(tmp_path: Path) -> None:
    made = attempt(tmp_path, lambda folder: (folder / "file").write_text("content", encoding="utf-8"))
    made.rename(made.with_suffix(".partial"))
    assert attempt(tmp_path, lambda _: pytest.fail("made again")) == made


def test_partial_work_under_another_fingerprint_is_gone_on_with_later(tmp_path: Path) -> None:
    begun = tmp_path / "kind" / f"label-{'a' * 16}.partial"
    begun.mkdir(parents=True)
    (begun / "file").write_text("begun", encoding="utf-8")
    kdtool.commit(begun, begun / "file")
    attempt(tmp_path, lambda folder: (folder / "file").write_text("content", encoding="utf-8"))
    made = Artefacts(tmp_path).make("kind", "label", "a" * 64, build=lambda _: None, waiting=print)
    assert (made.path / "file").read_text(encoding="utf-8") == "begun"


def test_no_room_at_the_end_of_any_stage_is_a_sentence_and_the_run_goes_on(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, build_whole = {**recipe, "seeds": [0]}, Artefacts._build
    full_at, made = "", []

    def build_or_fail(self: Artefacts, path: Path, fingerprint: str, build: Any, *more: Any) -> Artefact:
        def build_without_room(folder: Path) -> None:
            build(folder)
            if path.parent.name == full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "file"))

        artefact = build_whole(self, path, fingerprint, build_without_room, *more)
        made.append(path)
        return artefact

    monkeypatch.setattr(Artefacts, "_build", build_or_fail)
    for stage in ("text", "students", "rows", "signals", "phases", "exports", "scores"):
        full_at = stage
        with pytest.raises(kdtool.StorageError, match=rf"cannot write .*{stage}.*Finished stages are kept; make room"):
            kdtool.run(recipe)
    full_at = ""
    assert len(kdtool.run(recipe).stages) == len(made) == len(set(made))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows folders have no such permissions")
def test_a_folder_that_may_not_be_written_is_a_sentence_at_every_stage(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "toy.json").write_text(json.dumps({**recipe, "seeds": [0]}), encoding="utf-8")
    # The superuser may write everywhere, unless this is taken away.
    capabilities = "-dac_override,-dac_read_search"
    bound = ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"] if os.geteuid() == 0 else []
    if bound and not shutil.which("setpriv"):
        pytest.skip("the superuser may write everywhere, and there is no setpriv")
    command = [*bound, sys.executable, "-m", "kdtool", "run", "toy.json"]
    store, run = (f"store/{kind}" for kind in ("runs", "text", "students", "rows", "signals")), "runs/toy"
    for name in ("runs", run, "store", *store, f"{run}/phases", f"{run}/exports", f"{run}/scores"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o555)
        done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
        folder.chmod(0o755)
        assert done.returncode == 8, (name, done.stderr)
        assert f"error: cannot write {folder}" in done.stderr
        assert "Permission denied" in done.stderr
    subprocess.run(command, check=True, capture_output=True)


def test_an_artefact_under_another_fingerprint_is_not_taken(tmp_path: Path) -> None:
    made = attempt(tmp_path, lambda folder: (folder / "file").write_text("content", encoding="utf-8"))
    with pytest.raises(kdtool.StorageError, match="belongs to another"):
        Artefacts(tmp_path).find("kind", "label", made.name.removeprefix("label-") + "0" * 48)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a file system that takes no folders")
def test_a_folder_that_cannot_be_made_is_an_error_of_storage(recipe: dict[str, Any]) -> None:
    with pytest.raises(kdtool.StorageError, match=r"cannot read or write /proc/none.*create the folder above it, or"):
        kdtool.run(recipe, out="/proc/none")
    with pytest.raises(kdtool.StorageError, match="cannot read or write /proc/none"):
        kdtool.run(recipe, store="/proc/none")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped byte": lambda path: flip(path, path.stat().st_size // 3),
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
    file = first.arms[0].path / "counts.json"
    weights, made = file.read_bytes(), file.stat().st_mtime_ns
    names = [path.relative_to(partial) for partial in [left_unfinished(first, kind)] for path in partial.rglob("*")]
    kdtool.run(recipe)
    assert kind != "phases" or file.stat().st_mtime_ns == made, "trained again"
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
