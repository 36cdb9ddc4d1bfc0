"""Tokens of a teacher are taken at the temperature at which losses read them, whatever else these are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest

TOY = Path(__file__).with_name("toy.py")

OWN = f'''
import json, sys
sys.path.insert(0, {str(TOY.parent)!r})
import kdtool, toy


class Drawn(toy.Cache):
    """Keeps drawn tokens, and notes at which temperature it was asked for them."""

    offers = frozenset({{"sampled", "hidden"}})
    def records(self, want, offers):
        return kdtool.SignalRequest(frozenset({{"logits"}}), (), want.temperature)
    def kdtool_record(self, run, rows, source, folder):
        with open("asked.json", "w") as file:
            json.dump(source.want.temperature, file)
        return super().kdtool_record(run, rows, source, folder)


class Likely(kdtool.TokenLoss):
    """Learns what is likely at temperature 2."""

    needs = (frozenset({{"sampled"}}),)
    temperature = 2.0
    class Config(kdtool.Config):
        power: int = 0
        """Of the temperature."""

    def __init__(self, config):
        super().__init__(config)
        self.temperature_power = config.power

    def kdtool_token_loss(self, chunk): ...


class Inside(kdtool.SequenceLoss):
    """Looks inside, where no temperature plays a part."""

    needs = (frozenset({{"hidden"}}),)
    def kdtool_sequence_loss(self, view): ...
'''
LIKELY, INSIDE = {"use": "./own.py:Likely"}, {"use": "./own.py:Inside"}


@pytest.mark.parametrize("power", [0, 2])
@pytest.mark.parametrize("others", ["none", "after it", "before it", "in a phase before it"])
def test_tokens_are_taken_at_the_temperature_of_the_loss(recipe: dict[str, Any], power: int, others: str) -> None:
    Path("own.py").write_text(OWN, encoding="utf-8")
    likely, count = {**LIKELY, "power": power}, recipe["train"]["losses"]["count"]
    orders: dict[str, list[dict[str, Any]]] = {
        "none": [{"likely": likely}],
        "after it": [{"likely": likely, "inside": INSIDE}],
        "before it": [{"inside": INSIDE, "likely": likely}],
        "in a phase before it": [{"inside": INSIDE}, {"likely": likely}],
    }
    phases = {f"p{i}": {"losses": {**losses, "count": count}, "steps": 1} for i, losses in enumerate(orders[others])}
    kdtool.run({**recipe, "train": phases, "signals": {"use": "./own.py:Drawn"}, "seeds": [0], "control": False})
    assert json.loads(Path("asked.json").read_text(encoding="utf-8")) == 2.0
