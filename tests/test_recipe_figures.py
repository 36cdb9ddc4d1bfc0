"""Heads of recipes and docs/systems.md say what `kdtool check` says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from recipe_figures import COMMAND, ROOT, SYSTEMS, TABLE_BEGIN, figures, read, read_block

TOLERANCE = 0.05
"""Greatest difference of a figure from what the check says: versions of libraries change an estimate a little."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_head_says_what_the_check_says(name: str) -> None:
    found = figures(name)
    said = read(read_block(name))
    expected = (found.gpu / 1e9, found.host / 1e9, found.disk / 1e9, found.hours("a100-80gb"))
    assert said == pytest.approx(expected, rel=TOLERANCE, abs=0.1), f"write the figures anew: {COMMAND}"


def test_the_page_has_the_figures_of_the_heads() -> None:
    page = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8").partition(TABLE_BEGIN)[2]
    for name in SYSTEMS:
        gpu, host, disk, _ = read(read_block(name))
        assert f"| `{name}` | {gpu} GB | {host} GB | {disk} GB |" in page, f"write the figures anew: {COMMAND}"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "small").glob("*.yaml")), ids=lambda path: path.stem)
def test_heads_of_small_recipes_state_no_figures_that_nothing_writes(path: Path) -> None:
    head = path.read_text(encoding="utf-8").partition("\nname:")[0]
    assert not re.search(r"[\d.]+\s*(?:[kMG]i?B|days?|hours?|minutes?|seconds?|h|min|s)\b", head)
