"""Built components: a class with its validated config and an instance, which lives as long as its `Lifetime`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from kdtool._contract.component import Component
from kdtool._contract.reporting import Tracker
from kdtool._contract.run_info import Owner
from kdtool._errors import Problem, cause_of
from kdtool._plugins.events import TrackerThread
from kdtool._plugins.hook_specs import implements
from kdtool._plugins.hooks import ComponentHooks, using
from kdtool._plugins.registry import Loaded
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, problem_at
from kdtool._recipe.yaml import KeyPath


class Lifetime(ExitStack):
    """A context that closes the components built in it, the last one first; closing it again does nothing.

    Args:
        complain: called with a line for each component that could not be closed; the others are closed all the same.
    """

    def __init__(self, complain: Callable[[str], None]) -> None:
        super().__init__()
        self.complain = complain

    def build(
        self, owner: Owner, cls: type[Component], config: Any, *, required: bool
    ) -> tuple[Component, TrackerThread | None]:
        """Build a component, which lives until this context ends, and the thread in which it works, if it has its own.

        Raises:
            PluginError: its constructor failed.
        """
        with using(owner, "its constructor"):
            component = cls(config)
        close, thread = partial(self._close, owner, component), None
        if isinstance(component, Tracker) and not (required or component.synchronous or component.shows_messages):
            thread = TrackerThread(owner, self.complain)
            self.callback(thread.close, close)
        elif implements(cls, "kdtool_close"):
            self.callback(close)
        return component, thread

    def _close(self, owner: Owner, component: Component) -> None:
        try:
            ComponentHooks({owner.name: component}, {owner.name: owner}).kdtool_close()
        except Exception as error:
            self.complain(f"{owner} could not be closed: {cause_of(error)}")


@dataclass(frozen=True)
class Built:
    """A component's class with its validated config, and the instance that its assembly owns.

    `written` is the config with paths as the recipe writes them, for records and fingerprints. `thread` is a
    tracker's own, None if it has none.
    """

    spec: ComponentSpec
    loaded: Loaded
    written: Any
    config: Any
    component: Component
    owner: Owner
    thread: TrackerThread | None = None

    def renew(self, lifetime: Lifetime) -> Built:
        """Return the same with a new instance, which lives as long as `lifetime`."""
        component, thread = lifetime.build(self.owner, self.loaded.cls, self.config, required=self.spec.required)
        return replace(self, component=component, thread=thread)


@dataclass(frozen=True)
class BuiltRecipe:
    """A recipe with its built components, as the checks read it."""

    recipe: Recipe
    built: Mapping[KeyPath, Built]

    @property
    def phases(self) -> tuple[PhaseSpec, ...]:
        """The recipe's phases and the control's."""
        return (*self.recipe.phases, *(self.recipe.control.phases if self.recipe.control else ()))

    def component(self, spec: ComponentSpec) -> Any:
        """Return the instance of a component; its class is that of its kind, which the recipe decides."""
        return self.built[spec.key].component

    def problem(self, key: KeyPath, message: str, remedy: str = "") -> Problem:
        """Return a problem of a key, with its place."""
        return problem_at(self.recipe, key, message, remedy)
