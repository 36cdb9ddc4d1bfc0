"""The trainer as a component: found by name, light, settings described and bounded."""

from __future__ import annotations

from kdtool.testing import ComponentConformance
from kdtool_trainer_standard import StandardTrainer


class TestStandardTrainer(ComponentConformance):
    component = StandardTrainer
    entry_point = "standard"
