"""A whole recipe on the small pipeline in `toy.py`, for tests of the core and of commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TOY = Path(__file__).with_name("toy.py")


def toy_recipe() -> dict[str, Any]:
    """Return a recipe with two seeds, two controls, one evaluator and one exporter, without torch."""
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


def _toy(name: str, **options: Any) -> dict[str, Any]:
    return {"use": f"{TOY}:{name}", **options}
