"""Folders that others may have written: pipes, devices, links, sizes and odd JSON are refused, and no link is written to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._store.artefacts import Artefacts
from kdtool._store.files import commit, json_lines, write_sealed
from kdtool._store.shared import EVENTS, GRAPH, HOLDER, RESULTS

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no pipes and devices there")

ODD: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "large": lambda path: (path.touch(), os.truncate(path, 1 << 40))[1],  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_not_a_file_of_a_bounded_size_is_refused(odd: str, recipe: dict[str, Any], tmp_path: Path) -> None:
    ODD[odd](tmp_path / "own.py")
    refused = r"own\.py (is a pipe or a device|has 1,099,511,627,776 bytes); .*remove it"
    with pytest.raises(kdtool.StorageError, match=refused):
        kdtool.open_regular(tmp_path / "own.py")
    with pytest.raises(OSError, match="; expected"):
        kdtool.open_regular(tmp_path / "own.py", limit=1000)
    with pytest.raises(OSError, match="; expected"):
        next(json_lines(tmp_path / "own.py"))
    with pytest.raises(kdtool.RecipeError, match=rf"own\.py:Own.*cannot be read: .*{refused}"):
        kdtool.plan({**recipe, "corpus": {"use": "./own.py:Own"}})


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
    (tmp_path / "to" / "a").mkdir(parents=True)
    (tmp_path / "to" / "a" / "link").symlink_to("elsewhere")  # is not followed
    kdtool.copy_inside(tmp_path / "from" / "x" / ".." / "a", tmp_path / "from", tmp_path / "to")
    for name in ("a/b/file", "a/link"):
        assert (tmp_path / "to" / name).read_text(encoding="utf-8") == "x"
        assert not (tmp_path / "to" / name).is_symlink()
    for outside in (tmp_path, tmp_path / "from", tmp_path / "from" / "..", Path("/etc/hosts")):
        with pytest.raises(kdtool.StorageError, match="is not below"):
            kdtool.copy_inside(outside, tmp_path / "from", tmp_path / "to")


def _link_out(path: Path) -> None:
    """Make a link to a file that must stay as it is."""
    (path.parent / "victim").write_text("line\nno end", encoding="utf-8")
    path.symlink_to("victim")


@pytest.mark.parametrize("odd", ["pipe", "device", "link"])
@pytest.mark.parametrize("name", [RESULTS, GRAPH, EVENTS, *(f"{each}.writing" for each in (RESULTS, GRAPH, HOLDER))])
def test_an_odd_file_in_a_run_s_folder_hangs_no_command_and_is_not_written_to(
    recipe: dict[str, Any], name: str, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {**recipe, "seeds": [0], "control": False}
    path = kdtool.run(recipe).folder / name
    path.unlink(missing_ok=True)
    {**ODD, "link": _link_out}[odd](path)
    (listed,) = kdtool.runs()
    assert listed.state == ("damaged" if name == RESULTS else "done")
    kdtool.plan(recipe)
    assert kdtool.run(recipe).measurements
    assert capsys.readouterr().err.count("lacks events of this run") == (name == EVENTS), "said once"
    assert kdtool.load(recipe["name"]).measurements
    assert odd != "link" or (path.parent / "victim").read_text(encoding="utf-8") == "line\nno end"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *product(
            ["runs/toy/exports", "runs/toy/own", "runs/toy/.lock", "store/rows", "store/answers.sqlite"],
            ["victim", "victim/nothing"],
        ),
        ("runs/toy/tracker/files/inner", "victim"),
    ],
)
def test_a_linked_folder_is_refused_before_a_run_writes_or_deletes_in_it(
    recipe: dict[str, Any], name: str, target: str, tmp_path: Path
) -> None:
    (tmp_path / "victim" / "export.json").mkdir(parents=True)
    Path(name).parent.mkdir(parents=True)
    Path(name).symlink_to(tmp_path / target)
    with pytest.raises(kdtool.StorageError, match=rf"{name} is a link; expected a folder or nothing.*remove it"):
        kdtool.run(recipe)
    assert [*(tmp_path / "victim").rglob("*")] == [tmp_path / "victim" / "export.json"]


def _second_name(path: Path) -> None:
    _link_out(path)
    path.unlink()
    os.link(path.with_name("victim"), path)


@pytest.mark.parametrize("odd", [os.mkfifo, _link_out, _second_name])
def test_the_store_writes_through_no_link(odd: Callable[[Path], None], tmp_path: Path) -> None:
    odd(tmp_path / ".committed-0")
    (tmp_path / "kind").mkdir()
    (tmp_path / "kind" / "a-b.partial").symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"\.committed-0 is a (link|pipe).*remove it"):
        commit(tmp_path)
    with pytest.raises(OSError, match=r"a-b\.partial is a link.*remove it"):
        Artefacts(tmp_path).make("kind", "a", "b", build=lambda folder: pytest.fail(str(folder)), waiting=pytest.fail)
    assert {path.read_text(encoding="utf-8") for path in tmp_path.rglob("victim")} <= {"line\nno end"}


def _without_subjects(folder: Path) -> None:
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    del results["sha256"]
    write_sealed(folder / RESULTS, {**results, "subjects": []})


def _with_items(line: str) -> Callable[[Path], None]:
    return lambda folder: [path.write_text(line, "utf-8") for path in folder.glob("scores/*/items.jsonl")]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (lambda folder: (folder / GRAPH).write_text("[" * 100_000, encoding="utf-8"), GRAPH),
        (lambda folder: (folder / HOLDER).write_text("[1]", encoding="utf-8"), HOLDER),
        (_without_subjects, RESULTS),
        *((_with_items(line), "items.jsonl") for line in ("[" * 100_000, "[1]", "1", "{}", '{"item": "a", "sum": ""}')),
    ],
)
def test_an_odd_run_hides_no_sound_one(recipe: dict[str, Any], damage: Callable[[Path], None], file: str) -> None:
    sound = kdtool.run({**recipe, "seeds": [0], "control": False}).folder
    odd = sound.with_name("odd")
    shutil.copytree(sound, odd)
    damage(odd)
    states = {run.name: run.state for run in kdtool.runs()}
    assert states == {sound.name: "done", "odd": "damaged" if file == RESULTS else "done"}
    if file in {GRAPH, HOLDER}:
        assert kdtool.load(odd).measurements
    else:
        with pytest.raises(kdtool.StorageError, match=rf"odd.*{file}.*expected"):
            kdtool.compare([sound, odd])
