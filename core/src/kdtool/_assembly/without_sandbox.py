"""Leave out of a recipe what runs generated programs (`--no-sandbox`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdtool._contract.component import Component
from kdtool._errors import KdtoolError
from kdtool._plugins.registry import load
from kdtool._recipe.layers import as_written
from kdtool._recipe.read import load_recipe


def without_sandbox(recipe: Path, settings: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Return settings that also leave out the evaluators and filters that need a sandbox, or lose what they compare with.

    A line names them. Components in files next to the recipe stay.

    Raises:
        RecipeError: the recipe is wrong.
    """
    loaded, classes = load_recipe(recipe, settings), dict[str, type[Component]]()
    for spec in loaded.shared:
        with suppress(KdtoolError):  # told with its place when the recipe is assembled
            if spec.kind in {"evaluator", "filter"} and ".py:" not in spec.use:
                classes[as_written(spec.key)] = load(spec.kind, spec.use, Path.cwd(), say).cls
    direct = [name for name, cls in classes.items() if cls.needs_sandbox]
    lost = lost_without(direct, classes)
    for names, why in ((direct, "needs a sandbox"), (lost, "has nothing left to compare with")):
        for name in names:
            say(f"--no-sandbox: {name} is left out, it {why}")
    return {**settings, **dict.fromkeys([*direct, *lost], "false")}


def lost_without(left_out: Collection[str], classes: Mapping[str, type[Component]]) -> list[str]:
    """Return the components that would have nothing left to compare with, by name."""
    kept = {name: cls for name, cls in classes.items() if name not in left_out}
    needing = [(name, cls.needs_hook) for name, cls in kept.items() if cls.needs_hook]
    return [name for name, hook in needing if not any(_has_own(each, hook) for each in kept.values())]


def _has_own(cls: type[Component], hook: str) -> bool:
    """Return whether a component implements a hook that its kind's base class also declares."""
    return any(hook in vars(base) for base in cls.__mro__ if not base.__module__.startswith("kdtool."))
