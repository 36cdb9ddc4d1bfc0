"""Every file of a run is damaged in turn: the damage is named, and partial work is not reused."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._results.files import CARD
from kdtool._store import files as committed
from kdtool._store.artefacts import Artefact, Artefacts
from kdtool._store.files import read_sealed, write_sealed
from kdtool._store.shared import GRAPH

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


def attempt(root: Path, build: Any) -> Path:
    return Artefacts(root).make("kind", "label", PRINT, build=build, waiting=print).path


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
