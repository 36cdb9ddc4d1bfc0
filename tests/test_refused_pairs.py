"""`kdtool check` refuses a transform for its own reasons, never because of a loss: the list in docs/losses.md."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import kdtool
import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "losses.md"
WITH_OTHER_TEXT = "preference"
"""Needs a corpus of chosen and rejected answers."""
WITH_SAMPLES = "contrastive"
"""Needs text that the student writes."""
WITH_DROPOUT = "consistency"
"""Needs dropout, which this student has only with adapters."""
WITH_EXPERTS = "router-balance"
"""Needs experts, which this student does not have."""
ELSEWHERE = {WITH_OTHER_TEXT, WITH_SAMPLES, WITH_DROPOUT, WITH_EXPERTS}
LOSSES = sorted({point.name for point in entry_points(group="kdtool.losses")} - ELSEWHERE)
TRANSFORMS = sorted(point.name for point in entry_points(group="kdtool.transforms"))


def documented() -> set[str]:
    """Return the transforms that the page lists."""
    table = PAGE.read_text(encoding="utf-8").partition("## Losses with transforms")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE))


def problem(recipe: dict[str, Any], losses: list[str], transforms: dict[str, Any]) -> str:
    """Return the error of `kdtool check`; "" if it accepts the recipe."""
    recipe = {name: part for name, part in recipe.items() if name != "signals"}
    recipe["train"] = {"steps": 6, "losses": {name: {} for name in losses}, "transforms": transforms}
    try:
        kdtool.check(recipe)
    except kdtool.KdtoolError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_no_loss_is_refused_with_a_transform(recipe: dict[str, Any], transform: str) -> None:
    assert problem(recipe, LOSSES, {transform: {}}) == problem(recipe, ["ce"], {transform: {}})


def test_a_loss_of_two_passes_needs_dropout(recipe: dict[str, Any]) -> None:
    assert "has no dropout" in problem(recipe, [WITH_DROPOUT], {})
    assert not problem(recipe, [WITH_DROPOUT], {"lora": {"dropout": 0.1}})


def test_a_balance_of_experts_needs_experts(recipe: dict[str, Any]) -> None:
    assert "balances experts, but the student has none" in problem(recipe, ["ce", WITH_EXPERTS], {})


def test_the_documented_transforms_are_those_installed() -> None:
    assert documented() == set(TRANSFORMS)
