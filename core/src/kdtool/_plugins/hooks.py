"""Calling hooks: every call goes through pluggy, to one component at a time, with all wrappers around it.

`ComponentHooks` registers the components of one scope (one phase of one arm, with those that the run shares) in a pluggy
manager of its own. An addressed call leaves all other implementations out (`subset_hook_caller`); a call of all
components is a series of addressed ones, so that answers go by name and one failing tracker does not stop the others.
Components are registered last to first: pluggy calls what registered last first, so the recipe's order is the calling order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from functools import partial, wraps
from typing import Any, TypeVar, cast

import pluggy

from kdtool._contract.component import Component
from kdtool._contract.run_info import Named, Owner
from kdtool._errors import PluginError, UsageError
from kdtool._plugins.attribution import using
from kdtool._plugins.engine_wrappers import engine_wrappers, guarded_wrapper
from kdtool._plugins.events import Events
from kdtool._plugins.hook_specs import PREFIX, SPECS, Spec, implements, is_wrapper
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
        unnamed = {name: Owner(name, one.kind, name, "", "") for name, one in components.items()}
        self._owners = {**unnamed, **(owners or {})}
        self._muted = set() if muted is None else muted
        self._events = events
        self._whole = whole
        self._addressed: dict[str, _Addressed] = {}
        self._replaced: dict[tuple[str, str], Callable[..., Any]] = {}
        self._manager = _Manager()
        for name, component in reversed(self._components.items()):
            with using(self._owners[name], "its registration"):
                self._manager.register(component, name)
                self._guard_wrappers(component, self._owners[name])
        specs = [spec for name, spec in SPECS.items() if self.implementing(name)]
        owned = {name: (component, self._owners[name]) for name, component in components.items()}
        for plugin in engine_wrappers(specs, owned, required, trace, complain, self._muted):
            self._manager.register(plugin)

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
        found = reversed(getattr(self._manager.hook, hook).get_hookimpls())
        return tuple(one.plugin_name for one in found if not one.wrapper)

    def bound(self, hook: str) -> dict[str, Callable[..., Any]]:
        """Return each component's hook for hot loops: its plain method, where no component wraps the hook."""
        spec, found = SPECS[hook], getattr(self._manager.hook, hook).get_hookimpls()
        wrapped = any(one.wrapper and one.plugin_name in self._components for one in found)
        own = {one.plugin_name: one for one in found if not one.wrapper}
        through_pluggy = own if wrapped or spec.calling.tolerant else {name for name, _ in self._replaced}
        return {
            name: getattr(self._of(name), hook) if name in through_pluggy else _plain(spec, own[name])
            for name in self.implementing(hook)
        }

    def owner(self, name: str) -> Owner | None:
        """Return the plugin behind the component of that name."""
        return self._owners.get(name)

    def replacing(self, hook: str, by: Mapping[str, Callable[..., Any]]) -> ComponentHooks:
        """Return the same hooks, except that `by[name](call, …)` stands for `call(…)`, the hook of that component."""
        found = copy(self)
        found._addressed = {}
        found._replaced = self._replaced | {(name, hook): other for name, other in by.items()}
        return found

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
        found = getattr(self._manager.hook, hook).get_hookimpls()
        others = [one.plugin for one in found if not one.wrapper and one.plugin is not component]
        caller, values = self._manager.subset_hook_caller(hook, others), spec.values

        def call(*args: Any, **kwargs: Any) -> Any:
            if spec.calling.tolerant and name in self._muted:
                return None
            return caller(component=name, **values(args, kwargs))

        if thread:
            return partial(thread.put, hook, call)
        return partial(self._replaced[name, hook], call) if (name, hook) in self._replaced else call

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

    def _guard_wrappers(self, component: Component, owner: Owner) -> None:
        """Have errors of the component's own wrappers name it."""
        for caller in self._manager.get_hookcallers(component) or ():
            for one in caller.get_hookimpls():
                if one.plugin is component and one.wrapper:
                    one.function = guarded_wrapper(one.function, owner, caller.name, self._muted)  # type: ignore[misc]


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


class _Manager(pluggy.PluginManager):
    """A pluggy manager that takes `kdtool_…` methods of components as hooks without any mark.

    Every call is of one component, so that a wrapper gets its one answer (`firstresult`). Wrappers may also take the
    argument `component`, its name.
    """

    def __init__(self) -> None:
        super().__init__("kdtool")
        self.add_hookspecs(_DECLARATIONS)
        for name in SPECS:
            spec = getattr(self.hook, name).spec
            spec.argnames = (*spec.argnames, "component")

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:
        """Take every declared hook."""
        return {"firstresult": True} if name in SPECS else None

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Take a component's own hooks, which no inherited default is, and wrappers."""
        if not name.startswith(PREFIX):
            return None
        function = getattr(plugin if isinstance(plugin, type) else type(plugin), name)
        own = is_wrapper(function) or implements(type(plugin), name)
        return dict(getattr(function, "kdtool_impl", {})) if own else None


_DECLARATIONS = type("Declarations", (), {name: spec.declared for name, spec in SPECS.items()})


def _plain(spec: Spec, implementation: pluggy.HookImpl) -> Callable[..., Any]:
    function, wanted = implementation.function, implementation.argnames
    if tuple(wanted) == spec.arguments:
        return function

    @wraps(function)
    def fewer(*args: Any, **kwargs: Any) -> Any:
        values = spec.values(args, kwargs)
        return function(*(values[argument] for argument in wanted))

    return fewer
