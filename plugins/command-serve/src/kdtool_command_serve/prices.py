"""Teachers that cost money."""

from __future__ import annotations

from importlib.metadata import entry_points

import kdtool
from kdtool_asking import Priced

__all__ = ["paid_teachers"]


def paid_teachers(models: kdtool.Models) -> set[str]:
    """Return the names of a run's teachers whose answers cost money."""
    uses = {} if models.results is None else {component.name: component.use for component in models.results.components}
    installed = {point.name: point for point in entry_points(group="kdtool.teachers")}
    paid = set()
    for name in (name for name, subject in models.subjects.items() if subject.role == "teacher"):
        point = installed.get(uses.get(name, ""))
        if point and issubclass(point.load(), Priced):
            paid.add(name)
    return paid
