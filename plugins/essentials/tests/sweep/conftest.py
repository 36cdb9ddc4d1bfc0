"""A whole recipe without torch, on the small pipeline of the core's tests; every test has a folder of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "core" / "tests"))  # `toy` and its recipe

from toy_recipe import toy_recipe


@pytest.fixture
def recipe() -> dict[str, Any]:
    """A recipe with two seeds, two controls, one evaluator and one exporter."""
    return toy_recipe()


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDTOOL_STORE", str(tmp_path / "store"))
