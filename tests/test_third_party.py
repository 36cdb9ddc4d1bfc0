"""Plugins of somebody else, written from the documents alone: wheels beside kdtool's, in an environment of their own.

Each of the seven is the code of its page in a package that `kdtool new` made outside the repository.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kdtool._cli import cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("teacher", "student", "loss", "evaluator", "corpus", "exporter", "tracker")
OURS = ("kdtool-loss-ce", "kdtool-essentials", "kdtool-report", "kdtool-torch")
"""The rest of the run, from the wheels of the repository."""

_spec = importlib.util.spec_from_file_location("documented", ROOT / "tests" / "documented.py")
assert _spec is not None
assert _spec.loader is not None
_documented = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_documented)
EXAMPLES = _documented.examples()

RECIPE = {
    "name": "theirs",
    "corpus": {"use": "manual", "characters": 500},
    "rows": {"use": "packed", "length": 64, "maximum_tokens": 4096},
    "teacher": {"use": "bigram", "files": 10},
    "student": {"use": "small-llama", "layers": 2, "heads": 2},
    "trainer": {"use": "standard", "batch": 2, "dtype": "float32", "learning_rate": 1e-2, "compile": "off"},
    "train": {"losses": {"focal": {"gamma": 1.0}}, "steps": 12},
    "control": {"match": "tokens", "losses": {"ce": {}}},
    "evaluators": {"swapped-lines": {"documents": 6, "characters": 300}},
    "exporters": ["int8"],
    "trackers": {"csv": {"required": True}},
    "reporter": "html",
}


class Environment:
    """A fresh environment with the wheels of the seven, and what a user does in it."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder = folder
        self.packages = [_package(folder, EXAMPLES[kind]) for kind in KINDS]
        built = folder / "dist"
        for package in self.packages:
            _uv("build", "--quiet", "--wheel", "--out-dir", built, package)
        _uv("venv", "--quiet", "--python", sys.executable, folder / "environment")
        scripts = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")
        self.python = scripts / ("python.exe" if os.name == "nt" else "python")
        names = [f"{package.name}[test]" for package in self.packages]
        found = [f"--find-links={place}" for place in (wheels, built)]
        wheel_names = {path.name.partition("-")[0] for place in (wheels, built) for path in place.glob("*.whl")}
        fresh = [f"--reinstall-package={name}" for name in wheel_names]  # same version, but perhaps built again
        constraints = ROOT / "constraints.txt"
        _uv("pip", "install", "--quiet", "--python", self.python, "-c", constraints, *found, *fresh, *names, *OURS)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run Python in the environment, far from the repository."""
        settings = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env={**settings, "KDTOOL_STORE": str(self.folder / "store"), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )


def _package(folder: Path, example: Any) -> Path:
    """Make a package and put the page's code in it, under the class name that the package gave."""
    created = CliRunner().invoke(cli, ["new", example.kind, example.name], catch_exceptions=False)
    assert created.exit_code == 0, created.output
    package = folder / f"kdtool-{example.kind}-{example.name}"
    module = package / "src" / example.import_name / "__init__.py"
    entry = (package / "pyproject.toml").read_text(encoding="utf-8")
    (name,) = re.findall(rf'= "{example.import_name}:(\w+)"', entry)
    module.write_text(re.sub(rf"\b{example.class_name}\b", name, example.code), encoding="utf-8")
    return package


def _uv(*arguments: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "uv", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _built_wheels(folder: Path) -> Path:
    """Return tox's wheels, or build them."""
    if ready := os.environ.get("KDTOOL_TEST_WHEELS"):
        return Path(ready)
    subprocess.run([sys.executable, ROOT / "tests" / "build_wheels.py", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("theirs")
    wheels = _built_wheels(tmp_path_factory.mktemp("wheels"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return Environment(folder, wheels)


def test_they_are_listed_with_their_distributions(environment: Environment) -> None:
    done = environment.run("-m", "kdtool", "plugins", "list", "--json")
    rows = {(row["kind"], row["name"], row["distribution"]) for row in json.loads(done.stdout)}
    assert rows >= {(kind, EXAMPLES[kind].name, f"kdtool-{kind}-{EXAMPLES[kind].name}") for kind in KINDS}
    assert "causal-lm" not in done.stdout, "the environment holds what was asked for"


def test_one_run_uses_them_all(environment: Environment) -> None:
    recipe = environment.folder / "theirs.yaml"
    recipe.write_text(json.dumps(RECIPE), encoding="utf-8")
    done = environment.run("-m", "kdtool", "run", recipe)
    assert done.returncode == 0, done.stderr
    folder = environment.folder / "runs" / "theirs"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    used = {(component["kind"], component["distribution"]) for component in results["components"]}
    assert used >= {(kind, f"kdtool-{kind}-{EXAMPLES[kind].name}") for kind in KINDS}
    subjects = {found["subject"] for found in results["measurements"] if found["name"] == "swapped-lines"}
    assert subjects == {"teacher", "student", "control", "student-int8"}
    assert (folder / "report.html").is_file()
    lines = (folder / "losses.csv").read_text(encoding="utf-8").splitlines()
    assert {line.split(",")[0] for line in lines[1:]} == {"student", "control"}


def test_they_conform(environment: Environment) -> None:
    """In one process, as torch is slow to import; each package's own settings for pytest are these."""
    tests = [package / "tests" for package in environment.packages]
    done = environment.run("-P", "-m", "pytest", "-q", "--import-mode=importlib", "-W", "error", *tests)
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 15 * len(KINDS)
    assert "skipped" not in done.stdout
