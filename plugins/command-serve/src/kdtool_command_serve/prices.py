"""Teachers that cost money."""

from __future__ import annotations

from importlib.metadata import entry_points

import kdtool

__all__ = ["paid_teachers"]


def paid_teachers(models: kdtool.Models) -> set[str]:
    """Return the names of a run's teachers whose answers have a price: their class estimates it."""
    uses = {} if models.results is None else {component.name: component.use for component in models.results.components}
    installed = {point.name: point for point in entry_points(group="kdtool.teachers")}
    paid = set()
    for name in (name for name, subject in models.subjects.items() if subject.role == "teacher"):
        point = installed.get(uses.get(name, ""))
        if point and point.load().kdtool_estimate_answers is not kdtool.Teacher.kdtool_estimate_answers:
            paid.add(name)
    return paid
