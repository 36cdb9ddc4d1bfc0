"""From a file or a mapping to a checked `Recipe`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdtool._recipe import layers
from kdtool._recipe.model import Recipe
from kdtool._recipe.parser import Parser
from kdtool._recipe.yaml import Place, as_node
from kdtool._text.names import name_from


def load_recipe(recipe: Path | Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Recipe:
    """Read, compose and check a recipe.

    Args:
        recipe: a file, or the same as a mapping.
        settings: key paths to values, laid over it (`--set`).

    Raises:
        RecipeError: with all that is wrong.
    """
    if isinstance(recipe, Mapping):
        content = {key: value for key, value in recipe.items() if key != "extends"}
        below = layers.read_layers(Path(str(recipe["extends"]))) if "extends" in recipe else []
        stack, name = [*below, as_node(content, Place("recipe", 0, 0, Path.cwd()))], "run"
    else:
        stack, name = layers.read_layers(recipe), name_from(recipe.stem, "run")
    composed = layers.compose([*stack, layers.settings_layer(settings or {})])
    empty = Recipe(name, (0,), (), (), None, composed.plain(), composed.places(), given=(recipe, settings or {}))
    return Parser(empty).recipe()
