"""Predicted peak memory against measured runs: the recipes of `kdtool new`, and a student on plain torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest
import yaml
from click.testing import CliRunner
from kdtool._cli import cli

ROOT = Path(__file__).resolve().parent
PLAIN = {"teacher": {"use": f"{ROOT}/plain_torch.py:Letters"}, "student": {"use": f"{ROOT}/plain_torch.py:Window"}}

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="resident memory is that of Linux")]


def peak_of(recipe: Path) -> int:
    """Run a recipe by `kdtool run` and return the greatest resident memory of its process, in bytes.

    The process reads it from its own address space: `ru_maxrss` begins with that of the process that started it.
    """
    code = (
        "import atexit, runpy, sys\n"
        "status = lambda: open('/proc/self/status').read()\n"
        "atexit.register(lambda: open('peak', 'w').write(status().partition('VmHWM:')[2].split()[0]))\n"
        "runpy.run_module('kdtool', run_name='__main__')\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code, "run", str(recipe)], stdout=subprocess.DEVNULL, check=True)
    return int(Path("peak").read_text(encoding="utf-8")) * 1024


def scaffold(kind: str, teacher: str) -> dict[str, Any]:
    """Return the recipe of a new package, which is not installed: its class is used from its file."""
    CliRunner().invoke(cli, ["new", kind, "own"], catch_exceptions=False)
    os.chdir(f"kdtool-{kind}-own")
    recipe: dict[str, Any] = yaml.safe_load(Path("recipe.yaml").read_text(encoding="utf-8"))
    recipe[kind]["use"] = f"./src/kdtool_{kind}_own/__init__.py:Own{kind.title()}"
    if kind == "student":
        recipe["teacher"] = {"use": "causal-lm", "model": teacher}
    return recipe


@pytest.mark.parametrize("case", ["student", "teacher", "plain torch"])
def test_peak_memory_is_predicted(case: str, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path.cwd())  # restored afterwards
    small = scaffold("teacher" if case == "plain torch" else case, recipe["teacher"]["model"])
    if case == "plain torch":
        small |= PLAIN
    path = Path("small.yaml")
    path.write_text(yaml.safe_dump(small), encoding="utf-8")
    predicted = kdtool.check(path)["forecast"]["memory"]["peak"]
    # The process of the prediction has loaded transformers' models, which a run on plain torch does without.
    assert 0.85 < predicted / peak_of(path) < (1.4 if case == "plain torch" else 1.2)
