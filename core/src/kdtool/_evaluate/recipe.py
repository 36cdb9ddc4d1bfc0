"""The recipe of a run that only measures or opens models: from a whole recipe, or from names, or both.

Installed exporters are added, because the exporter that writes a format also reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic

from kdtool._contract.reporting import Results
from kdtool._errors import KdtoolError, RecipeError, UsageError
from kdtool._plugins.registry import entries_by_name, load
from kdtool._recipe.layers import compose, read_layers, settings_layer
from kdtool._recipe.model import REFERENCE, Recipe
from kdtool._recipe.parser import Parser
from kdtool._recipe.yaml import Node, Place, as_node
from kdtool._store.layout import RESULTS
from kdtool._text.terminal import print_line

_KEYS = ("corpora", "filters", "teachers", "evaluators", "exporters", "trackers", "reporter", REFERENCE)


def measuring_recipe(
    name: str,
    evaluators: Sequence[str],
    settings: Mapping[str, Any],
    *,
    corpus: str | None = None,
    recipe: Path | Results | None = None,
) -> Recipe:
    """Return a recipe without students and training.

    Args:
        name: the run's name, a valid one.
        evaluators: names; others of the recipe are left out, unless it has filters, which may ask them.
        settings: key paths to values, laid over all else.
        corpus: the corpus, in place of the recipe's corpora and filters.
        recipe: a whole recipe, or a run with its recipe, of which the keys for measuring are used.

    Raises:
        RecipeError: with all mistakes.
        UsageError: no evaluator is named.
    """
    file = recipe.folder / RESULTS if isinstance(recipe, Results) else recipe
    origin = Place(str(file or ""), 0, 0, Path.cwd())
    layers = [as_node(recipe.recipe, origin)] if isinstance(recipe, Results) else read_layers(recipe) if recipe else []
    below = _select(compose(layers), evaluators, corpus) if layers else Node({}, origin)
    overrides: dict[str, Any] = {"evaluators": {evaluator: {} for evaluator in evaluators}}
    if corpus:
        overrides["corpus"] = corpus
    composed = compose([below, as_node(overrides, origin), settings_layer(settings)])
    if not composed.plain().get("evaluators"):
        raise UsageError("no evaluator is named; name some, `--with NAME`, or give a recipe")
    return _with_openers(name, composed)


def opening_recipe(name: str, recipe: Mapping[str, Any]) -> Recipe:
    """Return a recipe with the teachers and exporters of a run's recipe, as `Results.recipe` holds it, to open models.

    Raises:
        RecipeError: with all mistakes, such as a plugin that is not installed any more.
    """
    kept = {key: recipe[key] for key in ("teachers", "exporters", REFERENCE) if recipe.get(key)}
    return _with_openers(name, as_node(kept, Place("", 0, 0, Path.cwd())))


def _with_openers(name: str, composed: Node) -> Recipe:
    data = composed.plain()
    if isinstance(exporters := data.get("exporters") or {}, Mapping):  # anything else is refused below
        used = {*exporters, *(entry.get("use") for entry in exporters.values() if isinstance(entry, Mapping))}
        data["exporters"] = {**{opener: {} for opener in _openers() if opener not in used}, **exporters}
    parser = Parser(Recipe(name, (0,), (), (), None, {"name": name, **data}, composed.places()))
    parser.refuse_unknown((), ("name", *_KEYS))
    if parser.problems:
        raise RecipeError(list(dict.fromkeys(parser.problems)))
    return replace(parser.empty, shared=parser.shared, reference=parser.reference)


def _select(whole: Node, evaluators: Sequence[str], corpus: str | None) -> Node:
    """Return the parts of a recipe for measuring.

    A recipe with filters keeps all evaluators: filters may ask them for their problems, so the text depends on them.
    """
    kept = {key: node for key, node in whole.value.items() if key in _KEYS}
    if corpus:
        kept.pop("corpora", None)
        kept.pop("filters", None)
    named = kept.get("evaluators")
    if named is not None and evaluators and isinstance(named.value, dict) and "filters" not in kept:
        selected = {name: node for name, node in named.value.items() if name in evaluators}
        kept["evaluators"] = Node(selected, named.place)
    return Node(kept, whole.place)


def _openers() -> Iterator[str]:
    """Yield the names of installed exporters that need no settings."""
    for name in entries_by_name("exporter"):
        try:
            load("exporter", name, Path.cwd(), print_line).cls.Config()
            yield name
        except pydantic.ValidationError:  # it needs settings: a recipe names it
            continue
        except KdtoolError as error:
            print_line(f"models that only the exporter {name!r} opens cannot be measured: {error}")
