"""Files that a killed process committed are there again byte by byte; all else that it left is gone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._store.files import RECORD, discard_uncommitted


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped byte": _flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "deleted": lambda path: path.unlink(),
}
"""Damage that a disk or a user does to a file."""


def _write(text: str, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _partial(folder: Path) -> Path:
    """Lay down an unfinished folder: two groups, one of them a folder, a file that grows, and what was being written."""
    for name in ("checkpoints/one/weights", "checkpoints/one/state", "model/config", "trained", "log/answers", "half"):
        _write(f"content of {name}\n", folder / name)
    kdtool.commit(folder / "checkpoints", folder / "checkpoints" / "one")
    kdtool.commit(folder, folder / "model", folder / "trained")
    kdtool.commit(folder / "log", folder / "log" / "answers", growing=True)
    return folder


def _left(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(RECORD))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


GROUPS = [{"checkpoints/one/weights", "checkpoints/one/state"}, {"model/config", "trained"}, {"log/answers"}]


def test_what_was_committed_stays_and_all_else_goes(tmp_path: Path) -> None:
    folder = _partial(tmp_path / "x")
    before, said = _left(folder), list[str]()
    (folder / "empty" / "inside").mkdir(parents=True)
    (folder / ".seconds").write_text("the engine's own", encoding="utf-8")
    for _ in range(2):  # killed again before anything was done
        discard_uncommitted(folder, said.append)
        assert _left(folder) == {
            **{name: before[name] for name in set().union(*GROUPS)},
            ".seconds": b"the engine's own",
        }
    assert not (folder / "empty").exists()
    assert said == []


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file_discards_what_belongs_to_it_and_nothing_else(tmp_path: Path, damage: str) -> None:
    whole = _partial(tmp_path / "whole")
    before = _left(whole)
    for file in sorted(path for path in whole.rglob("*") if path.is_file()):
        folder = tmp_path / "damaged"
        shutil.copytree(whole, folder)
        name = file.relative_to(whole).as_posix()
        DAMAGE[damage](folder / name)
        said = list[str]()
        discard_uncommitted(folder, said.append)
        left = _left(folder)
        if name == "log/answers":  # its lines carry digests of their own
            left.pop(name, None)
        assert all(before[each] == content for each, content in left.items()), name
        lost = [group for group in GROUPS if group - left.keys() - {"log/answers"}]
        if file.name.startswith(RECORD):
            assert len(lost) <= 2
        elif name not in {"half", "log/answers"}:
            assert lost == [next(group for group in GROUPS if name in group)]
            assert name in said[0]
            assert "it is made again" in said[0]
        else:
            assert lost == []
        shutil.rmtree(folder)


def test_what_is_committed_again_or_given_up_counts_as_it_was_last(tmp_path: Path) -> None:
    file, other, lines = tmp_path / "file", tmp_path / "folder" / "other", tmp_path / "lines"
    _write("first", file, other)
    kdtool.commit(tmp_path, file)
    kdtool.commit(tmp_path, other.parent)
    kdtool.commit(tmp_path, lines, growing=True)
    _write("second", file, lines)
    kdtool.commit(tmp_path, file)
    kdtool.commit(tmp_path, gone=[other.parent, lines])
    discard_uncommitted(tmp_path, pytest.fail)
    assert _left(tmp_path) == {"file": b"second"}


def test_while_a_file_of_a_group_is_replaced_one_of_the_two_counts_at_any_moment(tmp_path: Path) -> None:
    a, b, new = tmp_path / "a", tmp_path / "b", tmp_path / "new"
    _write("first", a, b)
    kdtool.commit(tmp_path, a, b)
    for is_replaced, content in ((False, b"first"), (True, b"second")):
        _write("second", new)
        kdtool.commit(tmp_path, b, pending={b: new})
        if is_replaced:
            new.replace(b)
        for _ in range(2):
            discard_uncommitted(tmp_path, pytest.fail)
            assert _left(tmp_path) == {"a": b"first", "b": content}
    said = list[str]()
    _write("third", a)
    discard_uncommitted(tmp_path, said.append)
    assert _left(tmp_path) == {"b": b"second"}
    assert len(said) == 1


def test_each_process_of_a_run_has_a_record_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        _write(rank, tmp_path / rank)
        kdtool.commit(tmp_path, tmp_path / rank)
    with (tmp_path / f"{RECORD}1").open("ab") as file:
        file.write(b'{"files": {"ha')  # killed while it wrote a line
    _write("more", tmp_path / "more")
    kdtool.commit(tmp_path, tmp_path / "more")
    discard_uncommitted(tmp_path, pytest.fail)
    assert set(_left(tmp_path)) == {"0", "1", "more"}


@pytest.mark.skipif(os.name == "nt", reason="Windows links files only with special rights")
def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "x", tmp_path / "elsewhere"
    _write("mine", elsewhere / "file")
    folder.mkdir()
    (folder / "link").symlink_to(elsewhere)
    discard_uncommitted(folder, pytest.fail)
    assert not list(folder.iterdir())
    assert (elsewhere / "file").exists()


_PLAIN = st.dictionaries(
    st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()), min_size=1
)


@given(_PLAIN, st.data())
def test_a_sealed_line_is_read_back_and_any_change_is_noticed(content: dict[str, object], data: st.DataObject) -> None:
    line = kdtool.seal_line(content)
    assert kdtool.unseal_line(line) == content
    assert line.count(b"\n") == 1
    place = data.draw(st.integers(0, len(line) - 1))
    changed = bytearray(line)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    assert kdtool.unseal_line(bytes(changed)) is None
    assert kdtool.unseal_line(line[:place]) is None
