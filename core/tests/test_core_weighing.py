"""Weightings that cannot do with what their phase has are refused when a recipe is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest

TOY = Path(__file__).with_name("toy.py")

OWN = f'''
import sys
sys.path.insert(0, {str(TOY.parent)!r})
import kdtool, toy


class Likely(kdtool.TokenLoss):
    """Learns what is likely."""

    needs = (frozenset({{"logits"}}), frozenset({{"sampled"}}))
    def kdtool_token_loss(self, chunk): ...


class Inside(kdtool.SequenceLoss):
    """Looks inside, at no tokens."""

    needs = (frozenset({{"hidden"}}),)
    def kdtool_sequence_loss(self, view): ...


class Drawn(toy.Cache):
    """Keeps drawn tokens alone."""

    offers = frozenset({{"sampled", "hidden"}})
    def records(self, want, offers):
        return kdtool.SignalRequest(frozenset({{"logits"}}))


class Sure(kdtool.Weighting):
    """Weighs by what the teacher is sure of."""

    needs = (frozenset({{"logits"}}), frozenset({{"top-k"}}))
    def kdtool_token_weight(self, chunk): ...


class Named(kdtool.Weighting):
    """Speaks of a loss."""

    class Config(kdtool.Config):
        loss: str = "count"
        """The loss."""

    def __init__(self, config):
        super().__init__(config)
        self.terms = frozenset({{config.loss}})

    def kdtool_balance(self, terms, step): ...
'''


@pytest.fixture
def likely(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe that learns what the teacher finds likely, and counts beside it; nobody weighs."""
    Path("own.py").write_text(OWN, encoding="utf-8")
    recipe["train"]["losses"] = {"count": recipe["train"]["losses"]["count"], "likely": {"use": "./own.py:Likely"}}
    return {**recipe, "signals": False}


def problems(recipe: dict[str, Any], **weightings: Any) -> list[str]:
    train = {**recipe["train"], "weightings": weightings}
    try:
        kdtool.check({**recipe, "train": train})
    except kdtool.RecipeError as error:
        return [f"{problem.key}: {problem.message}; {problem.remedy}" for problem in error.problems]
    return []


def test_what_a_weighting_sees_is_what_the_first_token_loss_gets(likely: dict[str, Any]) -> None:
    sure = {"sure": {"use": "./own.py:Sure"}}
    assert problems(likely, **sure) == [], "the teacher beside the student gives logits"
    drawn = {**likely, "signals": {"use": "./own.py:Drawn"}}
    (found,) = problems(drawn, **sure)
    assert found.startswith("train.weightings.sure: needs logits or top-k of the teacher, but sees what likely learns")
    assert "from: sampled" in found
    assert "leave `signals` out" in found


def test_losses_of_whole_sequences_show_nothing_to_a_weighting(likely: dict[str, Any]) -> None:
    count = likely["train"]["losses"]["count"]
    likely["train"]["losses"] = {"inside": {"use": "./own.py:Inside"}, "count": count}
    assert problems({**likely, "signals": {"use": "./own.py:Drawn"}}, sure={"use": "./own.py:Sure"}) == []


def test_a_loss_that_is_not_there_is_refused_with_those_that_are(likely: dict[str, Any]) -> None:
    assert problems(likely, named={"use": "./own.py:Named"}) == []
    (found,) = problems(likely, named={"use": "./own.py:Named", "loss": "likly"})
    assert found.startswith("train.weightings.named: names the loss 'likly', which is not in phase 'train'; ")
    assert "did you mean 'likely'" in found
    assert "count, likely" in problems(likely, named={"use": "./own.py:Named", "loss": "zzz"})[0]


def test_the_control_may_lack_what_weightings_speak_of(likely: dict[str, Any]) -> None:
    assert "control" in likely
    weightings = {"named": {"use": "./own.py:Named", "loss": "likely"}, "sure": {"use": "./own.py:Sure"}}
    assert problems(likely, **weightings) == []
