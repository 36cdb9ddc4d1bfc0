"""Conformance suites for plugins: subclass one in your tests, name the class under test, and pytest runs the rest.

    from kdtool_testing import TokenLossConformance
    from kdtool_loss_focal import Focal

    class TestFocal(TokenLossConformance):
        component = Focal
        entry_point = "focal"
        settings = {"gamma": 2.0}

There is one for every kind. Its docstring lists the attributes to set, and the methods to override so that the component
has what it needs (`prepare` for files, `companions` for other components of the run). All extend `ComponentConformance`;
`CommandConformance` is for commands. `toy` contains the stand-ins.

For other settings, write a second class in the same folder: its tests that settings do not change are deselected.

A suite's tests cannot be deleted, replaced or skipped in a subclass, except by one that is marked
`pytest.mark.xfail(reason=…)`. The rest here serves your own tests: a run (`make_run`), small models (`toy_model`, and
`write_toy_model` for one in a folder), opened subjects, results. Needs pytest; torch only for suites that compute.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "ByteTokenizer",
    "CacheConformance",
    "CommandConformance",
    "ComponentConformance",
    "CorpusConformance",
    "EvaluatorConformance",
    "ExecutorConformance",
    "ExporterConformance",
    "FilterConformance",
    "ListSource",
    "Listener",
    "LossConformance",
    "OneRuntime",
    "Opener",
    "OptimizerConformance",
    "PackerConformance",
    "RegistrationConformance",
    "ReporterConformance",
    "ScriptedRuntime",
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
    "empty_results",
    "generate_plainly",
    "make_results",
    "make_run",
    "toy_model",
    "write_toy_model",
]
_MODULES = (
    "toy", "toy.sampling", "toy.runtime", "suite", "component", "data", "reporter", "tracker", "executor", "model_checks",
    "student", "teacher", "cache", "loss", "sequence_loss", "weighting", "trainer", "evaluator",
)  # fmt: skip
"""The modules of the names above, each after those that it imports."""

if "pytest" in sys.modules:  # else `kdtool new` runs, which needs no tests
    for _module in _MODULES:
        sys.modules["pytest"].register_assert_rewrite(f"kdtool_testing.{_module}")

if TYPE_CHECKING:
    from kdtool_testing.cache import CacheConformance
    from kdtool_testing.component import ComponentConformance, RegistrationConformance
    from kdtool_testing.data import CorpusConformance, FilterConformance, PackerConformance
    from kdtool_testing.evaluator import EvaluatorConformance
    from kdtool_testing.executor import ExecutorConformance
    from kdtool_testing.loss import LossConformance, TokenLossConformance
    from kdtool_testing.reporter import ReporterConformance, empty_results, make_results
    from kdtool_testing.sequence_loss import SequenceLossConformance
    from kdtool_testing.student import ExporterConformance, StudentConformance, TransformConformance
    from kdtool_testing.suite import CommandConformance
    from kdtool_testing.teacher import TeacherConformance
    from kdtool_testing.toy import ByteTokenizer, Listener, ListSource, batch_of, make_run, write_toy_model
    from kdtool_testing.toy.runtime import OneRuntime, Opener, ScriptedRuntime, ToyRuntime, toy_model
    from kdtool_testing.toy.sampling import generate_plainly
    from kdtool_testing.tracker import TrackerConformance
    from kdtool_testing.trainer import OptimizerConformance, TrainerConformance
    from kdtool_testing.weighting import WeightingConformance
else:

    def __getattr__(name: str) -> Any:
        """Return a public name from the first module that has it; no suite is imported before."""
        if name in __all__:
            for module in _MODULES:
                found = vars(import_module(f"kdtool_testing.{module}"))
                if name in found:
                    return found[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
