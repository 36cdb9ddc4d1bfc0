"""From a file or a mapping to a checked `Recipe`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdtool._errors import RecipeError
from kdtool._recipe import layers
from kdtool._recipe.control import read_control
from kdtool._recipe.model import Recipe, of_kind
from kdtool._recipe.parser import TOP_KEYS, Parser
from kdtool._recipe.yaml import Place, as_node
from kdtool._text.names import name_from

__all__ = ["load_recipe"]


def load_recipe(recipe: Path | Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Recipe:
    """Read, compose and check a recipe.

    Args:
        recipe: a file, or the same as a mapping.
        settings: key paths to values, laid over it (`--set`).

    Raises:
        RecipeError: with all that is wrong.
    """
    if isinstance(recipe, Mapping):
        own = {key: value for key, value in recipe.items() if key != "extends"}
        below = layers.read_layers(Path(str(recipe["extends"]))) if "extends" in recipe else []
        stack, name = [*below, as_node(own, Place("recipe", 0, 0, Path.cwd()))], "run"
    else:
        stack, name = layers.read_layers(recipe), name_from(recipe.stem, "run")
    composed = layers.compose([*stack, layers.settings_layer(settings or {})])
    empty = Recipe(name, (0,), (), (), None, composed.plain(), composed.places())
    return _checked(Parser(empty))


def _checked(parser: Parser) -> Recipe:
    """Return the parsed recipe.

    Raises:
        RecipeError: with all that is wrong.
    """
    parser.refuse_unknown((), TOP_KEYS)
    name, seeds, phases = parser.name(), parser.seeds(), parser.phases()
    control = read_control(parser, phases)
    for key, kind in (("corpora", "corpus"), ("student", "student")):
        parser.need(of_kind(parser.shared, kind), (), key)
    if parser.problems:
        raise RecipeError(list(dict.fromkeys(parser.problems)))
    return replace(parser.empty, name=name, seeds=seeds, shared=parser.shared, phases=phases, control=control)
