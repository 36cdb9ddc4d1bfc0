"""What only the owner reads, what is deleted, and how text of others is shown."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from string import hexdigits
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool._store.files import write_sealed
from kdtool._text.terminal import escape_controls as escape
from plugin_site import forget_installed, install

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="folders of a user are private on Windows")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@POSIX
def test_the_store_and_files_with_texts_and_answers_are_their_owners_alone(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        results = kdtool.run(recipe)
    finally:
        os.umask(before)
    store = tmp_path / "store"
    assert mode(store) == 0o700
    kinds = [place / kind for place in (store, results.folder) for kind in ("text", "rows", "signals", "scores")]
    files = [file for kind in kinds for file in kind.glob("*/**/*") if file.is_file() and file.name != "manifest.json"]
    assert {file.parent.parent.name for file in files} == {"text", "rows", "signals", "scores"}
    assert {mode(file) & 0o077 for file in files} == {0}
    assert {mode(file.parent) for file in files} == {0o700}


@POSIX
def test_a_file_of_answers_is_its_owners_alone_and_others_may_be_let_in_later(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        file = tmp_path / "new" / "answers.sqlite"
        database = kdtool.open_answers(file)
        database.execute("INSERT INTO answer VALUES ('key', '{}', '')")
        assert mode(file.parent) == 0o700
        beside = sorted(file.parent.iterdir())
        assert [path.name for path in beside] == ["answers.sqlite", "answers.sqlite-shm", "answers.sqlite-wal"]
        assert {mode(path) for path in beside} == {0o600}
        database.close()
        file.chmod(0o660)
        kdtool.open_answers(file).close()
        assert mode(file) == 0o660
    finally:
        os.umask(before)


def test_characters_that_steer_a_terminal_are_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = "Nice\x1b]0;owned\x07\u202edesrever\x9b2J"
    metadata = f"Metadata-Version: 2.1\nName: evil-plugin\nVersion: 1.0\nSummary: {summary}\n"
    points = "[kdtool.losses]\nevil = evil_module:Evil\n[kdtool.commands]\nevil-command = evil_module:Command\n"
    source = f'class Command:\n    """{summary}"""\n'
    install(tmp_path / "site", "evil-plugin", points, {"evil_module.py": source}, metadata)
    monkeypatch.syspath_prepend(tmp_path / "site")
    forget_installed()
    try:
        capsys.readouterr()
        for words in (["plugins"], ["plugins", "show", "evil"], ["--help"]):
            call(words)
        said = "".join(capsys.readouterr())
    finally:
        monkeypatch.undo()
        forget_installed()
    assert r"Nice\x1b]0;owned\x07\u202edesrever\x9b2J" in said
    assert not [one for one in said if not one.isprintable() and one != "\n"]
    assert escape("tab\tand line\nof Grüße 日本") == "tab\tand line\nof Grüße 日本"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(inner)


def test_no_text_of_another_s_run_steers_a_terminal(
    recipe: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One text of `results.json` at a time, wherever it is; where that is not valid, the error names it."""
    results = kdtool.run({**recipe, "require": {"nats.nats": "< 99"}}).folder / "results.json"
    found = json.loads(results.read_text(encoding="utf-8"))
    del found["sha256"]
    capsys.readouterr()
    for text in {*_strings(found)}:
        written = json.dumps(f"{text}\x1b[31mM\x9b2J\u202e\r")
        write_sealed(results, json.loads(json.dumps(found).replace(json.dumps(text), written)))
        for words in (["show", "toy", "--all"], ["compare", "toy", "toy"], ["runs"], ["report", "toy"]):
            call(words)
        said = "".join(capsys.readouterr())
        assert not [one for one in said if not one.isprintable() and one not in "\n\t"], text


def test_records_name_no_folder_of_this_machine_and_are_read_back_whole(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / "alice"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    plugin = home / "mine.py"
    plugin.write_text((Path(__file__).parent / "toy.py").read_text(encoding="utf-8"), encoding="utf-8")
    own = {**recipe, "teacher": {"use": f"{plugin}:Teacher"}}
    made = kdtool.run(own, out=home / "work" / "runs", store=tmp_path / "data" / "store")
    for name in ("results.json", "events.jsonl", "report.txt"):
        text = (made.folder / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in text, name
        assert "alice" not in text, name
    assert set(json.loads((made.folder / "graph.json").read_bytes())["by"]) <= set(hexdigits), (
        "not the name of this machine"
    )
    moved = home / "elsewhere"
    made.folder.rename(moved)
    found = kdtool.load(moved)
    assert [stage.path.is_dir() for stage in found.stages] == [True] * len(found.stages)
    assert {stage.path for stage in found.stages if "store" in stage.path.parts} == {
        stage.path for stage in made.stages if "store" in stage.path.parts
    }
    assert found.arms[0].artifacts[0].how_to_use == f"open {found.arms[0].artifacts[0].path}"
    with kdtool.open_models(moved) as models:
        assert "teacher" in models.subjects
