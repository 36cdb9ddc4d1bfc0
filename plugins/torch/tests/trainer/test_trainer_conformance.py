"""The trainer as a component: every mixture of losses, kills, faults, and what it reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from kdtool_testing import TrainerConformance
from kdtool_torch.trainer import StandardTrainer
from trainer_models import MIXTURE, train_terms


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


class TestOnTextOfTheStudentsOwn(TrainerConformance):
    component = StandardTrainer
    entry_point = "standard"
    settings: ClassVar = {**TestStandardTrainer.settings, "on_policy": {"fraction": 0.3, "tokens": 4}}

    @pytest.mark.xfail(reason="what the student writes in the place of rejected text is its own, and counts")
    def test_what_losses_say_of_rejected_tokens_is_left_out(self, tmp_path: Path) -> None:
        super().test_what_losses_say_of_rejected_tokens_is_left_out(tmp_path)


class Hoards(kdtool.Weighting):
    """Remembers what JSON has no form for."""

    def kdtool_balance(self, terms: Any, step: int, state: dict[str, Any]) -> None:
        state["seen"] = {1, 2}


def test_a_state_that_cannot_be_stored_is_named(tmp_path: Path) -> None:
    hoards = {"weightings.hoards": Hoards(Hoards.Config())}
    with pytest.raises(kdtool.PluginError, match=r"weightings.hoards.*kdtool_balance.*set is not JSON"):
        train_terms(tmp_path, MIXTURE[1:2], hoards, checkpoint_every=1)
