from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TOY = Path(__file__).with_name("toy.py")


def _toy(name: str, **options: Any) -> dict[str, Any]:
    return {"use": f"{TOY}:{name}", **options}


@pytest.fixture
def recipe() -> dict[str, Any]:
    """A whole recipe whose plugins are in a local file."""
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
    """Every test works in a folder of its own and finds no user's store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDTOOL_STORE", str(tmp_path / "store"))
