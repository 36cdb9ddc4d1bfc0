"""Plugins that others made before the packages were merged, byte for byte: they install, conform, and work in a run.

`earlier_contract.json` has the files that `kdtool new KIND earlier --bare` wrote. Do not adapt it to a change of kdtool:
these are other people's packages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FILES = json.loads((Path(__file__).parent / "earlier_contract.json").read_text(encoding="utf-8"))
RECIPE = {
    "name": "earlier",
    "corpus": "earlier",
    "rows": {"use": "packed", "length": 64, "maximum_tokens": 2560},
    "teacher": "earlier",
    "student": {"use": "gpt", "layers": 1, "hidden": 32, "heads": 2},
    "trainer": {"use": "standard", "batch": 2, "dtype": "float32", "compile": "off"},
    "train": {"losses": {"earlier": {}}, "steps": 4},
    "control": False,
    "evaluators": {"perplexity": {"limit": 2, "characters": 200}},
    "exporters": ["earlier"],
    "trackers": {"earlier": {"required": True}},
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The packages, in a folder of the test."""
    folder = tmp_path_factory.mktemp("theirs")
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def site(packages: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages as pip installs them, next to everything that this environment has."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    done = subprocess.run([*command, "--target", site, *packages], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return site


def run(site: Path, *arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", *arguments],
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_conform(site: Path, packages: list[Path]) -> None:
    run(site, "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", *packages)


def test_one_run_uses_them_all(site: Path, packages: list[Path], tmp_path: Path) -> None:
    recipe = tmp_path / "earlier.yaml"
    recipe.write_text(json.dumps(RECIPE), encoding="utf-8")
    run(site, "kdtool", "run", recipe, "--out", tmp_path / "runs")
    results = json.loads((tmp_path / "runs" / "earlier" / "results.json").read_text(encoding="utf-8"))
    used = {component["distribution"] for component in results["components"]}
    assert used >= {f"kdtool-{package.name}-earlier" for package in packages}
