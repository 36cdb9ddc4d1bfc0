"""A whole recipe on the small pipeline in `toy.py`, for tests of the core and of commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TOY = Path(__file__).with_name("toy.py")
Recipe = dict[str, Any]


def toy_recipe() -> Recipe:
    """Return a recipe with two seeds, two controls, one evaluator and one exporter, without torch."""
    return {
        "name": "toy",
        "seeds": [0, 1],
        "corpus": use("Corpus"),
        "rows": use("Packer"),
        "teacher": use("Teacher"),
        "signals": use("Cache"),
        "student": use("Student"),
        "trainer": use("Trainer"),
        "train": {"losses": {"count": use("Count", weight=0.5), "imitate": use("Imitate", weight=0.5)}, "steps": 4},
        "control": {"match": ["tokens", "time"]},
        "evaluators": {"nats": use("Nats")},
        "exporters": {"json": use("Export")},
        "trackers": {"events": use("Events")},
        "reporter": use("Report"),
    }


def use(name: str, **options: Any) -> Recipe:
    """Return the entry of one of the toy's components."""
    return {"use": f"{TOY}:{name}", **options}
