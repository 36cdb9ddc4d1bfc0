"""The kinds of plugin by name."""

from __future__ import annotations

from collections.abc import Mapping

from kdtool._contract.component import Component
from kdtool._contract.corpus import Annotator, Corpus, Packer, Screen
from kdtool._contract.evaluation import Evaluator, Exporter
from kdtool._contract.loss import Loss, Weighting
from kdtool._contract.reporting import Reporter, Tracker
from kdtool._contract.student import Student, Transform
from kdtool._contract.teacher import Cache, Teacher
from kdtool._contract.trainer import Trainer

_CLASSES: tuple[type[Component], ...] = (
    Corpus,
    Screen,
    Annotator,
    Packer,
    Teacher,
    Cache,
    Student,
    Transform,
    Loss,
    Weighting,
    Trainer,
    Evaluator,
    Exporter,
    Tracker,
    Reporter,
)
KINDS: Mapping[str, type[Component]] = {cls.kind: cls for cls in _CLASSES}
"""The base class of each kind, by the kind's name."""
