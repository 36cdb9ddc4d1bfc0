"""A recipe without torch, on the small pipeline of the core's tests; every test has a folder of its own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "core" / "tests"))  # `toy` and its recipe

from toy_recipe import TOY, toy_recipe


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a recipe, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe" / "small.yaml"
    path.parent.mkdir()
    shutil.copy(TOY, path.parent)
    path.write_text(yaml.safe_dump(toy_recipe()).replace(str(TOY), "./toy.py"), encoding="utf-8")
    return path
