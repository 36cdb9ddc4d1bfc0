"""Plugins require a range of versions of kdtool; one that excludes this version is refused before it is imported."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path

import kdtool
import pytest
from kdtool._plugins.distributions import install_command, refusal
from kdtool._plugins.registry import load


class Stated(Distribution):
    """A distribution that requires what a test says."""

    def __init__(self, *requirements: str) -> None:
        lines = "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
        self.text = f"Metadata-Version: 2.1\nName: kdtool-loss-x\nVersion: 1.5\n{lines}\n"

    def read_text(self, filename: str) -> str | None:
        return self.text if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("requirements", "excluding"),
    [
        ((), ""),
        (("kdtool", "torch>=99"), ""),
        ((f"kdtool=={kdtool.__version__}",), ""),
        (("kdtool>=99",), "kdtool>=99"),
        (("torch", "KDTool <0.0.1 ; python_version > '3'"), "KDTool <0.0.1 ; python_version > '3'"),
        (("kdtool>=99 ; extra == 'other'", "kdtool-rows>=99", "kdtoolkit>=99", "kdtool ~~ 1"), ""),
    ],
)
def test_a_version_that_a_requirement_excludes_is_refused(requirements: tuple[str, ...], excluding: str) -> None:
    assert refusal(Stated(*requirements)) == (
        f"kdtool-loss-x 1.5 requires {excluding}, but this is kdtool {kdtool.__version__}; "
        f"install versions that fit each other: {install_command('kdtool-loss-x', '--upgrade')}"
        if excluding
        else ""
    )


def test_a_later_pre_release_of_the_same_minor_version_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Stated("kdtool>=0.1,<0.2")
    for running, accepted in (("0.1.1.dev3", True), ("0.1.9", True), ("0.2.0.dev1", False), ("0.2.0", False)):
        monkeypatch.setattr("kdtool._plugins.distributions.version", lambda _, running=running: running)
        assert (refusal(plugin) == "") == accepted


def _install(folder: Path, requirement: str) -> None:
    info = folder / "x_future-1.0.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: x-future\nVersion: 1.0\nSummary: of use\nRequires-Dist: {requirement}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text("[kdtool.losses]\nx-future = x_future:X\n", encoding="utf-8")
    (info / "RECORD").write_text("x_future.py,,\n", encoding="utf-8")
    (folder / "x_future.py").write_text("raise SystemExit('imported')", encoding="utf-8")


@pytest.mark.parametrize("use", ["x-future", "x_future:X"])
def test_an_unsupported_plugin_is_refused_before_it_is_imported(use: str, tmp_path: Path) -> None:
    _install(tmp_path, "kdtool>=7")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom pathlib import Path\n"
        "import kdtool; from kdtool._plugins.registry import load\n"
        f"try:\n    load('loss', {use!r}, Path(), print)\nexcept kdtool.PluginError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert f"loss '{use}' cannot be used: x-future 1.0 requires kdtool>=7, but this is kdtool" in done.stdout


def test_the_list_says_what_cannot_be_used(tmp_path: Path) -> None:
    _install(tmp_path, "kdtool>=7")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from kdtool._cli import main; main()"
    command = [sys.executable, "-c", code, "plugins", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    (line,) = [line for line in listed.stdout.splitlines() if "x-future" in line]
    assert "requires kdtool>=7" in line


def test_local_code_requires_no_version(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import kdtool\nclass X(kdtool.TokenLoss):\n    'A loss.'\n    def kdtool_token_loss(self, chunk): ...\n",
        encoding="utf-8",
    )
    assert load("loss", "./own.py:X", tmp_path, lambda _: None).distribution == ""
