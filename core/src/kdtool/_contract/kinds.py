"""The kinds of plugin by name."""

from __future__ import annotations

from collections.abc import Mapping

from kdtool._contract import corpus, evaluation, loss, reporting, student, teacher, trainer
from kdtool._contract.component import Component

_HOMES = (corpus, teacher, student, loss, trainer, evaluation, reporting)
_CLASSES: tuple[type[Component], ...] = tuple(
    cls
    for home in _HOMES
    for cls in vars(home).values()
    if isinstance(cls, type) and cls.__module__ == home.__name__ and Component in cls.__bases__
)
KINDS: Mapping[str, type[Component]] = {cls.kind: cls for cls in _CLASSES}
"""The base class of each kind, by the kind's name."""
