"""Calling hooks: every call goes through pluggy, to one component at a time, with all wrappers around it.

`ComponentHooks` registers the components of one scope (one phase of one arm, with those that the run shares) in a pluggy
manager of its own. An addressed call leaves all other implementations out (`subset_hook_caller`); a call of all
components is a series of addressed ones, so that answers go by name and one failing tracker does not stop the others.
Components are registered last to first: pluggy calls what registered last first, so the recipe's order is the calling order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, TypeVar, cast

import pluggy

from kdtool._contract.component import Component
from kdtool._contract.run_info import Named, Owner
from kdtool._errors import PluginError, UsageError, cause_of
from kdtool._plugins.attribution import using
from kdtool._plugins.events import Events
from kdtool._plugins.guards import GuardedHooks, skip_checks
from kdtool._plugins.hook_specs import SPECS, Spec, implements
from kdtool._plugins.owner import owner_of
from kdtool._text.did_you_mean import did_you_mean

__all__ = ["ComponentHooks"]

K = TypeVar("K")


class ComponentHooks:
    """The hooks of the components of one scope; what components see of it is `kdtool.Hooks`.

    Args:
        components: by name, in the order of the recipe.
        owners: the plugin behind each component.
        required: components whose failure in a tolerant hook stops the run.
        trace: called with a line for each call of a hook.
        complain: called with a line for each failure that does not stop the run.
        muted: components that failed in a tolerant hook; shared by all scopes of a run.
        events: the way of calls of tolerant hooks, which are events; without it, components are called at once.
        whole: the hooks of the whole run, if these are of a phase: trackers in threads of their own are called by them.
    """

    def __init__(
        self,
        components: Mapping[str, Component],
        owners: Mapping[str, Owner] | None = None,
        *,
        required: frozenset[str] = frozenset(),
        trace: Callable[[str], None] | None = None,
        complain: Callable[[str], None] = print,
        muted: set[str] | None = None,
        events: Events | None = None,
        whole: ComponentHooks | None = None,
    ) -> None:
        self._components = dict(components)
        unnamed = {name: Owner(name, component.kind, name, "", "") for name, component in components.items()}
        self._owners = {**unnamed, **(owners or {})}
        self._required = required
        self._trace = trace
        self._depth = _Depth()
        self._complain = complain
        self._muted = set() if muted is None else muted
        self._events = events
        self._whole = whole
        self._addressed: dict[str, _Addressed] = {}
        self._replaced: dict[tuple[str, str], Callable[..., Any]] = {}
        self._manager = _make_manager()
        for name, component in reversed(self._components.items()):
            with using(self._owners[name], "its registration"):
                self._manager.register(GuardedHooks(component, self._owners[name], self._muted), name)

    def __getattr__(self, hook: str) -> Callable[..., Any]:
        """Return the call of a hook of all components: see `kdtool.Hooks`."""
        if hook not in SPECS:
            raise AttributeError(f"{hook} is not a hook")
        return partial(self._call_all, SPECS[hook])

    def component(self, name: str, kind: type[K]) -> K:
        """Return one component, whose hooks are called through pluggy: see `kdtool.Hooks.component`."""
        if isinstance(self._components.get(name), kind):
            return cast("K", self._of(name))
        names = [other for other, component in self._components.items() if isinstance(component, kind)]
        wanted = getattr(kind, "kind", "") or "component"
        found = f"{owner} is not a {wanted}" if (owner := self.owner(name)) else f"no {wanted} is called {name!r}"
        raise UsageError(f"{found}; {did_you_mean(name, names, what='there are') or f'this recipe has no {wanted}'}")

    def implementing(self, hook: str) -> tuple[str, ...]:
        """Return the names of the components that implement a hook, in the order in which they are called."""
        registered = reversed(getattr(self._manager.hook, hook).get_hookimpls())
        return tuple(implementation.plugin_name for implementation in registered if not implementation.wrapper)

    def bound(self, hook: str) -> dict[str, Callable[..., Any]]:
        """Return each component's hook for hot loops: without pluggy, if no component wraps the hook."""
        spec, registered = SPECS[hook], getattr(self._manager.hook, hook).get_hookimpls()
        through_pluggy = spec.calling.tolerant or any(implementation.wrapper for implementation in registered)
        return {
            name: getattr(self._of(name), hook)
            if through_pluggy or (name, hook) in self._replaced
            else skip_checks(getattr(self._components[name], hook), self._owners[name], spec)
            for name in self.implementing(hook)
        }

    def owner(self, name: str) -> Owner | None:
        """Return the plugin behind the component of that name."""
        return self._owners.get(name)

    def replacing(self, hook: str, by: Mapping[str, Callable[..., Any]]) -> ComponentHooks:
        """Return the same hooks, except that `by[name](call, …)` stands for `call(…)`, the hook of that component."""
        hooks = copy(self)
        hooks._addressed = {}
        hooks._replaced = self._replaced | {(name, hook): other for name, other in by.items()}
        return hooks

    def _of(self, name: str) -> Any:
        if name not in self._addressed:
            self._addressed[name] = _Addressed(self._components[name], partial(self._caller, name))
        return self._addressed[name]

    def _caller(self, name: str, hook: str) -> Callable[..., Any]:
        """Return the call of one component's hook."""
        spec, component = SPECS[hook], self._components[name]
        thread = self._events.threads.get(name) if self._events and spec.calling.tolerant else None
        if thread and self._whole:
            return cast("Callable[..., Any]", getattr(self._whole._of(name), hook))
        if not implements(type(component), hook):
            if spec.answers.must_answer:
                raise PluginError(f"{self.owner(name)} must implement {hook} for this recipe")
            return lambda *_, **__: None
        registered = getattr(self._manager.hook, hook).get_hookimpls()
        others = [each.plugin for each in registered if not each.wrapper and each.plugin_name != name]
        caller = self._manager.subset_hook_caller(hook, others)

        def call(*args: Any, **kwargs: Any) -> Any:
            if spec.calling.tolerant and name in self._muted:
                return None
            with self._trace_call(f"{hook} -> {name}"), self._tolerate_failure(name, spec):
                return caller(component=name, **spec.values(args, kwargs))

        if thread:
            return partial(thread.put, hook, call)
        return partial(self._replaced[name, hook], call) if (name, hook) in self._replaced else call

    @contextmanager
    def _tolerate_failure(self, name: str, spec: Spec) -> Iterator[None]:
        """Disable a component that fails in a tolerant hook, unless it is required, with a line for the user."""
        try:
            yield
        except Exception as error:
            owner = owner_of(error) or self._owners[name]
            if owner.name in self._required or not spec.calling.tolerant:
                raise
            self._muted.add(owner.name)
            self._complain(f"{owner} failed in {spec.name}: {cause_of(error)}; disabled for the rest of this run")

    @contextmanager
    def _trace_call(self, line: str) -> Iterator[None]:
        if self._trace is None:
            yield
            return
        self._trace(f"{'  ' * self._depth.calls}{line}")
        self._depth.calls += 1
        try:
            yield
        finally:
            self._depth.calls -= 1

    def _call_all(self, spec: Spec, /, *args: Any, **kwargs: Any) -> Any:
        answers: dict[str, Any] = {}
        if self._events and spec.calling.tolerant:
            args, kwargs = (), self._events.record(spec.name, spec.values(args, kwargs))
        for name in self.implementing(spec.name):
            answer = getattr(self._of(name), spec.name)(*args, **kwargs)
            if answer is not None:
                if spec.calling.first:
                    return Named(name, answer)
                answers[name] = answer
        return None if spec.calling.first or spec.answers.is_none else answers


class _Depth(threading.local):
    """The number of traced calls that this thread is in."""

    calls = 0


class _Addressed:
    """One component, as others reach it: its hooks go through pluggy, its attributes are its own."""

    def __init__(self, component: Component, caller: Callable[[str], Callable[..., Any]]) -> None:
        self._component = component
        self._caller = caller

    def __getattr__(self, name: str) -> Any:
        if name not in SPECS:
            return getattr(self._component, name)
        vars(self)[name] = self._caller(name)  # found without this method from now on
        return vars(self)[name]


def _make_manager() -> pluggy.PluginManager:
    """Return a pluggy manager of all hooks.

    Every call is of one component, so that a wrapper gets its one answer (`firstresult`). Wrappers may also take the
    argument `component`, its name.
    """
    manager = pluggy.PluginManager("kdtool")
    manager.add_hookspecs(_DECLARATIONS)
    for name in SPECS:
        spec = getattr(manager.hook, name).spec
        spec.argnames = (*spec.argnames, "component")
    return manager


_MARK = pluggy.HookspecMarker("kdtool")(firstresult=True)
_DECLARATIONS = type("Declarations", (), {name: _MARK(spec.declared) for name, spec in SPECS.items()})
