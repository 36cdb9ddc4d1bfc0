"""Fragments of the changelog: their form, and what `towncrier` makes of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import fragments
import pytest
from packages import ROOT


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("The loss `x` has a temperature.\n", ""),
        ("Two lines are fine,\nif they are one paragraph.\n", ""),
        ("", "one paragraph"),
        ("One.\n\nTwo.\n", "one paragraph"),
        ("- An entry.\n", "begins as a list"),
        ("# Heading.\n", "begins as a list"),
        ("No full stop\n", "full stop"),
        (f"{'a' * 123}.\n", "line 1 has 124 characters"),
    ],
)
def test_a_fragment_is_one_paragraph_of_sentences(text: str, problem: str) -> None:
    found = list(fragments.problems(text))
    assert len(found) == bool(problem)
    assert problem in "".join(found)


def test_a_wrong_fragment_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "+good.added.md").write_text("It is good.\n", encoding="utf-8")
    assert fragments.main(tmp_path) == 0
    (tmp_path / "+bad.fixed.md").write_text("It is bad\n", encoding="utf-8")
    assert fragments.main(tmp_path) == 1
    assert capsys.readouterr().out == "+bad.fixed.md: must end with a full stop\n"


def test_the_fragments_of_the_repository_are_right() -> None:
    assert fragments.main(fragments.FOLDER) == 0


def test_the_changelog_is_built_from_fragments(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    folder = tmp_path / "changelog.d"
    folder.mkdir()
    (folder / "+one.added.md").write_text("The loss `x` is new,\nand has two lines.\n", encoding="utf-8")
    (folder / "+two.fixed.md").write_text("The bug is fixed.\n", encoding="utf-8")
    before = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    command = [sys.executable, "-m", "towncrier", "build", "--yes", "--version", "9.0", "--date", "2030-01-02"]
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(command, cwd=tmp_path, check=True)
    start = "<!-- towncrier release notes start -->\n"
    section = (
        "\n## 9.0 (2030-01-02)\n\n### Added\n\n- The loss `x` is new,\n  and has two lines.\n"
        "\n### Fixed\n\n- The bug is fixed.\n\n"
    )
    assert (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8") == before.replace(start, start + section)
    assert not list(folder.glob("*.md"))
    (folder / "+three.improved.md").write_text("It is of an unknown type.\n", encoding="utf-8")
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode
