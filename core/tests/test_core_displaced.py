"""Damage that leaves no regular file, and folders that are moved while a run works in them: made again, or named."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import kdtool
import pytest
from kdtool._store.artefacts import Artefacts
from kdtool._store.files import RECORD, discard_uncommitted
from toy_recipe import Recipe


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_to_nowhere_in_an_unfinished_folder_are_made_again(tmp_path: Path) -> None:
    store, said = Artefacts(tmp_path), list[str]()

    def killed(folder: Path) -> None:
        for name in ("model", "state"):
            (folder / name).write_text(name, encoding="utf-8")
        kdtool.commit(folder, folder / "model")
        raise KeyboardInterrupt

    def build(folder: Path) -> None:
        assert not any(path.is_symlink() for path in folder.rglob("*"))
        (folder / "model").write_text("model", encoding="utf-8")

    with pytest.raises(KeyboardInterrupt):
        store.make("phases", "", "a" * 16, build=killed, waiting=said.append)
    partial = store.path_of("phases", "", "a" * 16).with_suffix(".partial")
    for name in ("model", "state", "shard-0.json"):
        (partial / name).unlink(missing_ok=True)
        (partial / name).symlink_to("nowhere")
    made = store.make("phases", "", "a" * 16, build=build, waiting=said.append)
    assert (made.path / "model").read_text(encoding="utf-8") == "model"
    assert "model is missing: it is made again" in said[0]


def test_a_folder_in_place_of_a_record_is_removed_with_what_it_recorded(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("x", encoding="utf-8")
    (tmp_path / f"{RECORD}0").mkdir()
    (tmp_path / f"{RECORD}0" / "inside").write_text("x", encoding="utf-8")
    for _ in range(2):
        discard_uncommitted(tmp_path, lambda _: None)
    assert not (tmp_path / "weights").exists()
    (tmp_path / "weights").write_text("y", encoding="utf-8")
    kdtool.commit(tmp_path, tmp_path / "weights")


@pytest.mark.parametrize("place", ["store/runs/*.json", "runs/toy/graph.json"])
def test_a_folder_in_place_of_a_file_is_named_and_the_remedy_works(recipe: Recipe, tmp_path: Path, place: str) -> None:
    recipe |= {"seeds": [0], "control": False}
    kdtool.run(recipe)
    (path,) = tmp_path.glob(place)
    path.unlink()
    path.mkdir()
    with pytest.raises(kdtool.StorageError, match="a folder is in its place") as caught:
        kdtool.run(recipe)
    remedy = re.search(r"Delete the folder (\S+) and run again", str(caught.value))
    assert remedy
    shutil.rmtree(remedy[1])
    kdtool.run(recipe)
