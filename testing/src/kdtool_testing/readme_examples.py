"""Assembles the part of a recipe that a README shows, so that no example of a README is wrong.

Stand-ins that do nothing fill in the keys left out and the components of packages that are not installed. The rest is
imported, configured and checked as `kdtool check` does it; nothing is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import yaml
from kdtool import Component, Config, RecipeError, SignalKind
from kdtool._assembly.assemble import Assembly, assemble
from kdtool._plugins.hook_specs import FORMS
from kdtool._plugins.registry import entries_by_name
from kdtool._recipe.parser import load_recipe

_OFFERS = frozenset(get_args(SignalKind))
_MOST: Mapping[str, Mapping[str, Any]] = {
    "teacher": {"offers": _OFFERS},
    "cache": {"offers": _OFFERS},
    "packer": {"carries_annotations": True},
    "loss": {"divergence": True},
    "trainer": {"optimizer_settings": ()},
}
"""Attributes with which a stand-in of a kind satisfies the rest of a recipe."""
_LEFT_OUT = {"kdtool_annotate"}
"""Hooks that restrict the rest of a recipe: a packer must carry the labels of a weighting."""


class _AnySettings(Config, extra="allow"):
    """Takes every setting."""


class _OnPolicySettings(_AnySettings):
    """Takes every setting, and has one more."""

    learned: bool = True
    """The setting for on-policy learning, which each trainer names its own way."""


def _stand_in(base: type[Component]) -> type[Component]:
    more = _MOST.get(base.kind, {})
    hooks = dict.fromkeys(
        (name for name in vars(base) if name.startswith("kdtool_") and name not in _LEFT_OUT), _nothing
    )
    return type(base.__name__, (base,), {"__doc__": "Does nothing.", "Config": _AnySettings, **hooks, **more})


def _nothing(self: Component) -> None:
    """Stand in for a hook."""


_CLASSES = {forms[0].__name__: _stand_in(forms[0]) for forms in FORMS.values()}
STAND_INS: Mapping[str, str] = {cls.kind: f"{__name__}:{name}" for name, cls in _CLASSES.items()}
"""The value of `use` for a component of each kind that does nothing; it offers and carries everything."""
_CLASSES["OnPolicy"] = type("OnPolicy", (_CLASSES["Trainer"],), {"on_policy": "learned", "Config": _OnPolicySettings})
ON_POLICY = f"{__name__}:OnPolicy"
"""The same for a trainer that learns on-policy."""
BASE: Mapping[str, Any] = {
    "name": "example",
    "corpus": {"use": STAND_INS["corpus"]},
    "rows": {"use": STAND_INS["packer"]},
    "teacher": {"use": STAND_INS["teacher"]},
    "student": {"use": STAND_INS["student"]},
    "trainer": {"use": STAND_INS["trainer"]},
    "train": {"losses": {"stand-in": {"use": STAND_INS["loss"]}}, "steps": 1},
}
"""A recipe of them, below the part of a recipe that a README shows."""


def __getattr__(name: str) -> Any:
    try:
        return _CLASSES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def uses(block: str, folder: Path) -> set[tuple[str, str]]:
    """Assemble a README's block and return the kind and `use` of every component in it.

    Raises:
        RecipeError: with all that is wrong with the example.
    """
    folder.mkdir()
    content = yaml.safe_load(block)
    base = str(content.get("extends", "base.yaml"))
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
    with patch("kdtool._assembly.assemble.missing_extra", return_value=""):  # nothing is run, so nothing is missing
        return assemble(load_recipe(recipe, dict(_replacements(recipe, stand_ins))), lambda _: None)


def _replacements(recipe: Path, stand_ins: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield settings that put a stand-in in place of each component that is not installed."""
    found = load_recipe(recipe)
    trained = [own for phase in found.phases for own in phase.components]
    for spec in {spec.key: spec for spec in (*found.lasting, *trained)}.values():
        if ":" not in spec.use and spec.use not in entries_by_name(spec.kind):
            yield ".".join(map(str, (*spec.key, "use"))), stand_ins[spec.kind]
