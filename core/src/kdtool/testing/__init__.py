"""Conformance suites for plugins: subclass one in your tests, say what is tested, and pytest runs the rest.

    from kdtool.testing import TokenLossConformance
    from kdtool_loss_focal import Focal

    class TestFocal(TokenLossConformance):
        component = Focal
        entry_point = "focal"
        settings = {"gamma": 2.0}

There is one for every kind; each says in its docstring what it asks for and which methods to override so that the
component has what it needs (`prepared` for files, `companions` for other components of the run). `ComponentConformance` is
what they share, `CommandConformance` is for commands.

A suite's tests cannot be deleted, replaced or skipped in a subclass, except by one that is marked
`pytest.mark.xfail(reason=…)`. The rest here serves tests of your own: a run (`make_run`), small models (`toy_model`, and
`write_toy_model` for one in a folder), opened subjects, results. Needs pytest; torch only where a suite computes.
"""
# ruff: noqa: E402 - asserts are rewritten before the suites are imported

import pytest

for _suite in (
    "annotator", "cache", "component", "corpus", "evaluator", "exporter", "loss", "models", "packer", "registration",
    "reporter", "screen", "student", "teacher", "tracker", "trainer", "transform", "weighting",
):  # fmt: skip
    pytest.register_assert_rewrite(f"kdtool.testing._{_suite}")

from kdtool.testing._annotator import AnnotatorConformance
from kdtool.testing._cache import CacheConformance
from kdtool.testing._component import ComponentConformance
from kdtool.testing._continued import continued_plainly
from kdtool.testing._corpus import CorpusConformance
from kdtool.testing._evaluator import EvaluatorConformance
from kdtool.testing._exporter import ExporterConformance
from kdtool.testing._loss import LossConformance, SequenceLossConformance, TokenLossConformance
from kdtool.testing._packer import PackerConformance
from kdtool.testing._registration import CommandConformance, RegistrationConformance
from kdtool.testing._reporter import ReporterConformance
from kdtool.testing._results import empty_results, make_results
from kdtool.testing._screen import ScreenConformance
from kdtool.testing._student import StudentConformance
from kdtool.testing._surroundings import ByteTokenizer, Listener, ListSource, make_run
from kdtool.testing._teacher import TeacherConformance
from kdtool.testing._toy import Opener, ToyRuntime, batch_of, toy_model, write_toy_model
from kdtool.testing._tracker import TrackerConformance
from kdtool.testing._trainer import TrainerConformance
from kdtool.testing._transform import TransformConformance
from kdtool.testing._weighting import WeightingConformance

__all__ = [
    "AnnotatorConformance",
    "ByteTokenizer",
    "CacheConformance",
    "CommandConformance",
    "ComponentConformance",
    "CorpusConformance",
    "EvaluatorConformance",
    "ExporterConformance",
    "ListSource",
    "Listener",
    "LossConformance",
    "Opener",
    "PackerConformance",
    "RegistrationConformance",
    "ReporterConformance",
    "ScreenConformance",
    "SequenceLossConformance",
    "StudentConformance",
    "TeacherConformance",
    "TokenLossConformance",
    "ToyRuntime",
    "TrackerConformance",
    "TrainerConformance",
    "TransformConformance",
    "WeightingConformance",
    "batch_of",
    "continued_plainly",
    "empty_results",
    "make_results",
    "make_run",
    "toy_model",
    "write_toy_model",
]
