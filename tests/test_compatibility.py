"""Which plugins are tried on which core: in a repository with a core, a library and two plugins."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from compatibility import plan, prove

BUILD = '[build-system]\nrequires = ["hatchling>=1.26"]\nbuild-backend = "hatchling.build"\n'
TEST = "import {core}\n\ndef test_core() -> None:\n    assert {core}.ANSWER == 42\n"


class Repository:
    """A clone whose packages a test writes, and tags."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._git("init", "--quiet")
        (folder / "conftest.py").touch()
        self.write_core("0.1.0")
        self.write("library", "kdtool>=0.1,<0.2")
        self.write("first", "kdtool>=0.1,<0.2", "kdtool-library>=0.1")
        self.write("second", "kdtool>=0.1,<0.2")

    def write_core(self, version: str, code: str = "ANSWER = 42\n") -> None:
        (self.folder / "VERSION").write_text(version + "\n", encoding="utf-8")
        self._write_package("core", "kdtool", "kdtool", code)
        (self.folder / "core" / "src" / "kdtool" / "__main__.py").write_text("import kdtool_first\n", encoding="utf-8")

    def write(self, name: str, *requirements: str) -> None:
        folder = f"plugins/{name}"
        self._write_package(folder, f"kdtool-{name}", f"kdtool_{name}", "import kdtool\n", *requirements)
        tests = self.folder / folder / "tests"
        tests.mkdir(exist_ok=True)
        (tests / f"test_{name}.py").write_text(TEST.format(core="kdtool"), encoding="utf-8")

    def _write_package(self, place: str, name: str, module: str, code: str, *requirements: str) -> None:
        source = self.folder / place / "src" / module
        source.mkdir(parents=True, exist_ok=True)
        (source / "__init__.py").write_text(code, encoding="utf-8")
        depth = place.count("/") + 1
        project = f'[project]\nname = "{name}"\ndynamic = ["version"]\ndependencies = {json.dumps(requirements)}\n'
        version = f'[tool.hatch.version]\npath = "{"../" * depth}VERSION"\npattern = "(?P<version>.+)"\n'
        wheel = f'[tool.hatch.build.targets.wheel]\npackages = ["src/{module}"]\n'
        text = "\n".join([BUILD, project, version, wheel])
        (self.folder / place / "pyproject.toml").write_text(text, encoding="utf-8")

    def commit(self, tag: str = "") -> None:
        self._git("add", "--all")
        self._git("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "--message", "x")
        if tag:
            self._git("tag", tag)

    def _git(self, *arguments: str) -> None:
        subprocess.run(["git", "-C", self.folder, *arguments], check=True)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def _planned(repository: Repository, work: Path, *only: str) -> list[tuple[str, str, set[str]]]:
    """Return revisions of plugins and core, and the packages, of each trial."""
    trials = plan(repository.folder, work, only)
    return [(trial.plugins.revision, trial.core.revision, set(trial.names)) for trial in trials]


ALL = {"kdtool-library", "kdtool-first", "kdtool-second"}


def test_both_directions_are_tried_within_the_ranges(repository: Repository, tmp_path: Path) -> None:
    repository.commit("v0.1.0")
    repository.write_core("0.1.1")
    repository.commit("v0.1.1")
    repository.write_core("0.1.2")
    repository.commit()
    assert _planned(repository, tmp_path / "work") == [("v0.1.1", "HEAD", ALL), ("HEAD", "v0.1.0", ALL)]
    assert _planned(repository, tmp_path / "chosen", "kdtool-first") == [
        ("v0.1.1", "HEAD", {"kdtool-first"}),
        ("HEAD", "v0.1.0", {"kdtool-first"}),
    ]


def test_plugins_that_do_not_admit_todays_core_are_counted_and_not_tried(
    repository: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.write("second", "kdtool>=0.1,<0.3")
    repository.commit("v0.1.0")
    repository.write_core("0.2.0")
    for name in ("library", "first", "second"):
        repository.write(name, "kdtool>=0.2,<0.3")
    repository.commit()
    assert _planned(repository, tmp_path / "work") == [("v0.1.0", "HEAD", {"kdtool-second"})]
    shown = capsys.readouterr().out
    assert "2 packages of v0.1.0 do not admit today's core (0.2.0)" in shown
    assert "3 packages of today do not admit any tagged core" in shown


def test_the_oldest_core_of_a_plugin_is_one_that_its_libraries_admit(repository: Repository, tmp_path: Path) -> None:
    repository.commit("v0.1.0")
    repository.write_core("0.1.10")
    repository.commit("v0.1.10")
    repository.write_core("0.1.11")
    repository.write("library", "kdtool>=0.1.2,<0.2")
    repository.commit()
    assert _planned(repository, tmp_path / "work")[1:] == [
        ("HEAD", "v0.1.0", {"kdtool-second"}),
        ("HEAD", "v0.1.10", {"kdtool-library", "kdtool-first"}),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "codes"), [("42", [0, 0]), ("41", [1, 0])])
def test_a_core_that_breaks_old_plugins_is_noticed(
    repository: Repository, tmp_path: Path, answer: str, codes: list[Any]
) -> None:
    """Today's plugins, with the same tests, pass on the old core."""
    repository.commit("v0.1.0")
    repository.write_core("0.1.1", f"ANSWER = {answer}\n")
    repository.commit()
    found = []
    for number, trial in enumerate(plan(repository.folder, tmp_path / "work")):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(prove(trial, folder))
    assert found == codes
