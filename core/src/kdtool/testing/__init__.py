"""Conformance suites for plugins: subclass one in your tests, say what is tested, and pytest runs the rest.

    from kdtool.testing import TokenLossConformance
    from kdtool_loss_focal import Focal

    class TestFocal(TokenLossConformance):
        component = Focal
        entry_point = "focal"
        settings = {"gamma": 2.0}

A suite's tests cannot be deleted or replaced in a subclass, except by one that is marked `pytest.mark.xfail` with a
reason. `make_run` and `ByteTokenizer` serve tests of your own. Needs pytest; torch only where a suite computes.
"""
# ruff: noqa: E402 - asserts are rewritten before the suites are imported

import pytest

for _suite in ("cache", "component", "corpus", "loss", "packer"):
    pytest.register_assert_rewrite(f"kdtool.testing._{_suite}")

from kdtool.testing._cache import CacheConformance
from kdtool.testing._component import ComponentConformance, RegistrationConformance
from kdtool.testing._corpus import CorpusConformance
from kdtool.testing._loss import LossConformance, SequenceLossConformance, TokenLossConformance
from kdtool.testing._packer import PackerConformance
from kdtool.testing._surroundings import ByteTokenizer, Listener, ListSource, make_run

__all__ = [
    "ByteTokenizer",
    "CacheConformance",
    "ComponentConformance",
    "CorpusConformance",
    "ListSource",
    "Listener",
    "LossConformance",
    "PackerConformance",
    "RegistrationConformance",
    "SequenceLossConformance",
    "TokenLossConformance",
    "make_run",
]
