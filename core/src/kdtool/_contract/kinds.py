"""The kinds of plugin by name."""

from __future__ import annotations

from collections.abc import Mapping

from kdtool._contract import corpus, evaluation, loss, reporting, student, teacher, trainer  # noqa: F401  # the kinds
from kdtool._contract.component import Component

KINDS: Mapping[str, type[Component]] = {cls.kind: cls for cls in Component.__subclasses__()}
"""The base class of each kind, by the kind's name."""
