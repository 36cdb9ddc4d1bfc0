"""A whole recipe without torch, on the small pipeline of the core's tests; every test has a folder of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

CORE_TESTS = Path(__file__).resolve().parents[3] / "core" / "tests"
sys.path.insert(0, str(CORE_TESTS))  # for `toy`, which a test's own plugins extend


def _toy(name: str, **options: Any) -> dict[str, Any]:
    return {"use": f"{CORE_TESTS / 'toy.py'}:{name}", **options}


@pytest.fixture
def recipe() -> dict[str, Any]:
    """A recipe with two seeds, two controls, one evaluator and one exporter."""
    return {
        "name": "toy",
        "seeds": [0, 1],
        "corpus": _toy("Corpus"),
        "rows": _toy("Packer"),
        "teacher": _toy("Teacher"),
        "signals": _toy("Cache"),
        "student": _toy("Student"),
        "trainer": _toy("Trainer"),
        "train": {"losses": {"count": _toy("Count", weight=0.5), "imitate": _toy("Imitate", weight=0.5)}, "steps": 4},
        "control": {"match": ["tokens", "time"]},
        "evaluators": {"nats": _toy("Nats")},
        "exporters": {"json": _toy("Export")},
        "trackers": {"events": _toy("Events")},
        "reporter": _toy("Report"),
    }


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDTOOL_STORE", str(tmp_path / "store"))
