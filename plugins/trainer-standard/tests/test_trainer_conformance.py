"""The trainer as a component: every mixture of losses, kills, faults, and what it reports."""

from __future__ import annotations

from typing import ClassVar

from kdtool.testing import TrainerConformance
from kdtool_trainer_standard import StandardTrainer


class TestStandardTrainer(TrainerConformance):
    component = StandardTrainer
    entry_point = "standard"
    settings: ClassVar = {
        "batch": 2,
        "learning_rate": 0.02,
        "dtype": "float32",
        "checkpoint_every": 2,
        "log_every": 1,
        "compile": "off",
    }
