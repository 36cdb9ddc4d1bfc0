"""Assembles the part of a recipe that a README shows, so that no example of a README is wrong.

Stand-ins fill in the keys left out and the components of packages that are not installed. The rest is imported,
configured and checked as `kdtool check` does it; nothing is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kdtool import RecipeError
from kdtool._assembly.assemble import Assembly, assemble
from kdtool._plugins.registry import entries_by_name
from kdtool._recipe.read import load_recipe

from kdtool_testing.stand_ins import BASE, ON_POLICY, STAND_INS

__all__ = ["uses"]


def uses(block: str, folder: Path) -> set[tuple[str, str]]:
    """Assemble a README's block and return the kind and `use` of every component in it.

    Raises:
        RecipeError: with all that is wrong with the example.
    """
    folder.mkdir()
    content = yaml.safe_load(block)
    base = str(content.get("extends", "base.yaml"))
    if Path(base).suffix not in {".yaml", ".yml"}:
        raise ValueError(
            f"the example extends {base!r}, which is not a file: write for instance `extends: quickstart.yaml`"
        )
    (folder / base).write_text(json.dumps(BASE), encoding="utf-8")
    recipe = folder / "example.yaml"
    recipe.write_text(block if "extends" in content else f"extends: {base}\n{block}", encoding="utf-8")
    with _assemble(recipe) as assembly:
        return {(built.spec.kind, built.spec.use) for built in assembly.built.values()}


def _assemble(recipe: Path) -> Assembly:
    """Assemble with stand-ins; if that fails, try again with a trainer that is on-policy, as the absent one may be."""
    try:
        return _with(recipe, STAND_INS)
    except RecipeError as error:
        try:
            return _with(recipe, {**STAND_INS, "trainer": ON_POLICY})
        except RecipeError:
            raise error from None


def _with(recipe: Path, stand_ins: Mapping[str, str]) -> Assembly:
    return assemble(load_recipe(recipe, dict(_replacements(recipe, stand_ins))), lambda _: None)


def _replacements(recipe: Path, stand_ins: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield settings that put a stand-in in place of each component that is not installed."""
    found = load_recipe(recipe)
    trained = [own for phase in found.phases for own in phase.components]
    for spec in {spec.key: spec for spec in (*found.lasting, *trained)}.values():
        if ":" not in spec.use and spec.use not in entries_by_name(spec.kind):
            yield ".".join(map(str, (*spec.key, "use"))), stand_ins[spec.kind]
