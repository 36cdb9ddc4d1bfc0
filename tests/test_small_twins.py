"""Small recipes of the five systems have every component of the full ones, except where their heads say why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kdtool._recipe.model import ComponentSpec, Recipe
from kdtool._recipe.parser import load_recipe

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
TWINS = {
    "code-craft": ["code-craft"],
    "starcoder2-mini-gpt": ["starcoder2-mini-gpt"],
    "claude-codellama": ["claude-codellama", "claude-instruct"],
    "smallcoder": ["smallcoder"],
    "codellama-web": ["codellama-web"],
}
"""The small recipes that have a system's stages together; the head of the first one has the differences."""


@pytest.mark.parametrize("name", TWINS)
def test_each_difference_from_the_full_recipe_is_stated(name: str) -> None:
    full, *small = (load_recipe(path) for path in (RECIPES / f"{name}.yaml", *map(small_path, TWINS[name])))
    together: set[tuple[str, str]] = set().union(*map(components, small))
    different = {component for _, component in components(full) ^ together}
    assert stated(small_path(TWINS[name][0])) == different


@pytest.mark.parametrize("name", TWINS)
def test_a_small_recipe_has_the_arms_and_phases_of_its_system(name: str) -> None:
    full, small = (load_recipe(path) for path in (RECIPES / f"{name}.yaml", small_path(TWINS[name][0])))
    assert [phase.name for phase in small.phases] == [phase.name for phase in full.phases]
    assert (small.control is None) == (full.control is None)


def small_path(name: str) -> Path:
    return RECIPES / "small" / f"{name}.yaml"


def components(recipe: Recipe) -> set[tuple[str, str]]:
    """Return the components of a recipe with their place: a phase, or their kind; losses and transforms have both."""
    found = {(spec.kind, called(spec)) for spec in recipe.lasting}
    for phase in recipe.phases:
        found |= {(f"{phase.name}: {spec.kind}", called(spec)) for spec in phase.components}
    fim = [spec for spec in recipe.lasting if spec.options.get("fim")]
    return found | {("packer", "fim") for _ in fim}


def called(spec: ComponentSpec) -> str:
    """Return a component's plugin, with the type of the file that it writes; plain folders differ in precision."""
    kind = spec.options.get("type", spec.options.get("dtype")) if spec.kind == "exporter" else None
    return spec.use if kind is None or spec.use == "safetensors" else f"{spec.use}: {kind}"


def stated(path: Path) -> set[str]:
    """Return the components that the head of a small recipe names as different from the full one's."""
    header = path.read_text(encoding="utf-8").partition("\nname:")[0].replace("\n# ", " ")
    (paragraph,) = re.findall("Unlike the full recipe: (.+)", header)
    return set(re.findall("`([^`]+)`", paragraph))
