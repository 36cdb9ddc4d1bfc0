"""The recipe of a run that only measures: from a whole recipe, or from names on the command line, or both.

Of a whole recipe only what measuring needs is taken. To open models, every installed exporter stands by: who writes a format
reads it, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from kdtool._errors import KdtoolError, RecipeError, UsageError
from kdtool._plugins.registry import entries_by_name, load
from kdtool._recipe.layers import compose, read_layers, settings_layer
from kdtool._recipe.model import Recipe
from kdtool._recipe.parser import Parser
from kdtool._recipe.yaml import Node, Place, as_node
from kdtool._text.terminal import print_line

__all__ = ["measuring_recipe"]

_KEYS = ("corpora", "screens", "teachers", "evaluators", "exporters", "trackers", "reporter")


def measuring_recipe(
    name: str,
    evaluators: Sequence[str],
    settings: Mapping[str, Any],
    *,
    corpus: str | None = None,
    recipe: Path | None = None,
) -> Recipe:
    """Return a recipe without students and training.

    Args:
        name: the run's name, a valid one.
        evaluators: what measures; others that the recipe names are left out, unless it has screens, which may ask them.
        settings: key paths to values, laid over all else.
        corpus: what gives text, in place of the recipe's corpora and screens.
        recipe: a whole recipe to take from.

    Raises:
        RecipeError: with all that is wrong.
        UsageError: nothing says what measures.
    """
    place = Place(str(recipe or ""), 0, 0, Path.cwd())
    below = _taken(compose(read_layers(recipe)), evaluators, corpus) if recipe else Node({}, place)
    own: dict[str, Any] = {"evaluators": {evaluator: {} for evaluator in evaluators}}
    if corpus:
        own["corpus"] = corpus
    composed = compose([below, as_node(own, place), settings_layer(settings)])
    data = composed.plain()
    if not data.get("evaluators"):
        raise UsageError("nothing says what to measure: name evaluators, `--with NAME`, or give a recipe")
    if isinstance(exporters := data.get("exporters") or {}, Mapping):  # anything else is refused below
        data["exporters"] = {**_openers(exporters), **exporters}
    data.setdefault(
        "reporter", {"use": next(iter(entries_by_name("reporter")))} if entries_by_name("reporter") else None
    )
    parser = Parser(Recipe(name, (0,), (), (), None, {"name": name, **data}, composed.places()))
    parser.refuse_unknown((), ("name", *_KEYS))
    shared = parser.shared
    if parser.problems:
        raise RecipeError(list(dict.fromkeys(parser.problems)))
    return Recipe(name, (0,), shared, (), None, parser.data, parser.empty.places)


def _taken(whole: Node, evaluators: Sequence[str], corpus: str | None) -> Node:
    """Return what a whole recipe has of use here.

    Screens may ask evaluators for their problems, and screen by those of all: without the evaluators that measure nothing
    here the text would be another one.
    """
    kept = {key: node for key, node in whole.value.items() if key in _KEYS}
    if corpus:
        kept.pop("corpora", None)
        kept.pop("screens", None)
    named = kept.get("evaluators")
    if named is not None and evaluators and isinstance(named.value, dict) and "screens" not in kept:
        own = {name: node for name, node in named.value.items() if name in evaluators}
        kept["evaluators"] = Node(own, named.place)
    return Node(kept, whole.place)


def _openers(exporters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the installed exporters that need no settings, which open models."""
    used = {entry.get("use", name) for name, entry in exporters.items() if isinstance(entry, Mapping)}
    return {name: {} for name in _without_settings() if name not in used and name not in exporters}


def _without_settings() -> Iterator[str]:
    for name in entries_by_name("exporter"):
        try:
            load("exporter", name, Path.cwd(), print_line).cls.Config()
        except pydantic.ValidationError:  # it needs settings: a recipe names it
            continue
        except KdtoolError as error:
            print_line(f"models that only the exporter {name!r} opens cannot be measured: {error}")
            continue
        yield name
