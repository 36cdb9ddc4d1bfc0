"""Files that others may have written: pipes, devices, links out of a folder, and sizes are refused before they are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._store.shared import EVENTS, GRAPH, RESULTS

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no pipes and devices there")

ODD: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "large": lambda path: (path.touch(), os.truncate(path, 1 << 40))[1],  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_not_a_file_of_a_bounded_size_is_refused(odd: str, tmp_path: Path) -> None:
    ODD[odd](tmp_path / "file")
    with pytest.raises(
        kdtool.StorageError, match=r"file (is a pipe or a device|has 1,099,511,627,776 bytes); .*remove it"
    ):
        kdtool.open_regular(tmp_path / "file")
    with pytest.raises(OSError, match="; expected"):
        kdtool.open_regular(tmp_path / "file", limit=1000)


@pytest.mark.parametrize(
    ("links", "is_inside"),
    [
        ({"model/LICENSE": "text"}, True),
        ({"model/LICENSE": "../secret"}, False),
        ({"model/LICENSE": "../model/text"}, True),
        ({"model/inner": "..", "model/LICENSE": "inner/secret"}, False),
        ({"model/LICENSE": "LICENSE"}, False),
        ({"model": "snapshots/1", "snapshots/1/LICENSE": "../../blobs/a"}, True),
        ({"snapshots/1/LICENSE": "../../secret", "model": "snapshots/1"}, False),
        ({"blobs/b": "../secret", "snapshots/1/LICENSE": "../../blobs/b", "model": "snapshots/1"}, False),
        ({"model/LICENSE": "../blobs/a"}, False),
    ],
)
def test_links_stay_in_their_folder_or_in_the_cache_of_the_hub(
    tmp_path: Path, links: dict[str, str], is_inside: bool
) -> None:
    for name in ("secret", "snapshots/1/text", "blobs/a", *(["model/text"] if "model" not in links else [])):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    if is_inside:
        with kdtool.open_regular(tmp_path / "model" / "LICENSE", inside=tmp_path / "model") as file:
            assert file.read() == b"x"
    else:
        with pytest.raises(OSError, match=r"leads out of .*model|symbolic links"):
            kdtool.open_regular(tmp_path / "model" / "LICENSE", inside=tmp_path / "model")


def test_a_folder_is_copied_with_its_files_to_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "from" / "a" / "b").mkdir(parents=True)
    (tmp_path / "from" / "a" / "b" / "file").write_text("x", encoding="utf-8")
    (tmp_path / "from" / "a" / "link").symlink_to("b/file")
    kdtool.copy_inside(tmp_path / "from" / "x" / ".." / "a", tmp_path / "from", tmp_path / "to")
    for name in ("a/b/file", "a/link"):
        assert (tmp_path / "to" / name).read_text(encoding="utf-8") == "x"
        assert not (tmp_path / "to" / name).is_symlink()
    for outside in (tmp_path, tmp_path / "from", tmp_path / "from" / "..", Path("/etc/hosts")):
        with pytest.raises(kdtool.StorageError, match="is not below"):
            kdtool.copy_inside(outside, tmp_path / "from", tmp_path / "to")


@pytest.mark.parametrize("odd", ["pipe", "device"])
@pytest.mark.parametrize("name", [RESULTS, GRAPH, EVENTS])
def test_an_odd_file_in_a_run_s_folder_hangs_no_command(recipe: dict[str, Any], name: str, odd: str) -> None:
    recipe = {**recipe, "seeds": [0]}
    path = kdtool.run(recipe).folder / name
    path.unlink(missing_ok=True)
    ODD[odd](path)
    (listed,) = kdtool.runs()
    assert listed.state == ("damaged" if name == RESULTS else "done")
    kdtool.plan(recipe)
    if name != RESULTS:
        assert kdtool.load(recipe["name"]).measurements
        assert kdtool.run(recipe).measurements


@pytest.mark.parametrize("odd", ODD)
def test_a_local_plugin_is_a_file_of_a_bounded_size(recipe: dict[str, Any], odd: str, tmp_path: Path) -> None:
    ODD[odd](tmp_path / "own.py")
    with pytest.raises(kdtool.RecipeError, match=r"own\.py:Own.*cannot be read: .*own\.py (is a pipe|has 1,099)"):
        kdtool.plan({**recipe, "corpus": {"use": "./own.py:Own"}})
