"""Fragments of the changelog: their form, and what `towncrier` makes of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from packages import ROOT


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
