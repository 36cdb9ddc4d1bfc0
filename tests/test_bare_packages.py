"""`kdtool new KIND NAME --bare`: its tests pass as they are, and its plugin is the first example of the kind's page."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import documented
import pytest
from click.testing import CliRunner
from kdtool._cli import cli
from kdtool._plugins.registry import GROUPS

EXAMPLES = documented.examples()
COMPUTING = {"teacher", "cache", "student", "transform", "loss", "weighting", "trainer", "optimizer"}
"""Kinds whose suites compute with torch: 7 to 45 seconds."""


def create(kind: str, name: str) -> Path:
    CliRunner().invoke(cli, ["new", kind, name, "--bare"], catch_exceptions=False)
    return Path(f"kdtool-{kind}-{name}").absolute()


def declare_installed(package: Path, site: Path) -> None:
    """Write what pip would write beside the modules of an installed package."""
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in project["dependencies"]]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ((group, points),) = project["entry-points"].items()
    ((name, value),) = points.items()
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n", encoding="utf-8")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow, *([pytest.mark.nightly] if kind != "loss" else [])])
        if kind in COMPUTING
        else kind
        for kind in sorted(GROUPS)
    ],
)
def test_a_bare_package_passes_its_own_tests(kind: str, tmp_path: Path) -> None:
    package = create(kind, "mine")
    declare_installed(package, tmp_path / "site")
    paths = os.pathsep.join([str(package / "src"), str(tmp_path / "site")])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", str(package)],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=package,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", sorted(GROUPS))
def test_a_bare_plugin_is_the_first_example_of_its_page(kind: str) -> None:
    example = EXAMPLES[kind]
    names = {'"hello"': '"mine"', "def hello": "def mine_command", '"returns"': '"mine"'}
    if example.first_class_name:
        names[example.first_class_name] = f"Mine{kind.capitalize()}"
    code = example.first_code
    for name, new in names.items():
        code = code.replace(name, new)
    (module,) = create(kind, "mine").glob("src/*/__init__.py")
    assert module.read_text(encoding="utf-8") == code
