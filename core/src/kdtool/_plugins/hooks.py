"""Calling hooks: every call goes through pluggy, to one component at a time, with all wrappers around it.

`ComponentHooks` registers the components of one scope (one phase of one arm, with those that the run shares) in its own
pluggy manager. An addressed call leaves all other implementations out (`subset_hook_caller`); a call of all
components is a series of addressed ones, so that answers go by name and one failing tracker does not stop the others.
Components are registered last to first: pluggy calls what registered last first, so the recipe's order is the calling order.

A guard around each method is the innermost layer of a call: errors name the component, returned values are checked, and
wrappers of other components see its errors and results.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import KW_ONLY, dataclass, field
from functools import partial, wraps
from types import MethodType
from typing import Any, TypeVar, cast

import pluggy

from kdtool._contract.component import Component, hookimpl
from kdtool._contract.run_info import Named, Owner
from kdtool._errors import PluginError, UsageError, cause_of
from kdtool._plugins.attribution import blame, note_owner, owner_of, using
from kdtool._plugins.events import Events
from kdtool._plugins.hook_specs import SPECS, Spec, implements, is_wrapper
from kdtool._text.names import did_you_mean

K = TypeVar("K")


@dataclass(eq=False, repr=False)
class ComponentHooks:
    """The hooks of the components of one scope; what components see of it is `kdtool.Hooks`.

    `components` are in the order of the recipe. A component that fails in a tolerant hook is muted, with a line by
    `complain`, unless it is `required`; `muted` is shared by all scopes of a run. Calls of tolerant hooks are `events`;
    without these, components are called at once. Hooks of a phase call trackers in threads by those of the `whole` run.
    """

    components: Mapping[str, Component]
    owners: Mapping[str, Owner] = field(default_factory=dict)
    _: KW_ONLY
    required: frozenset[str] = frozenset()
    complain: Callable[[str], None] = print
    muted: set[str] = field(default_factory=set)
    events: Events | None = None
    whole: ComponentHooks | None = None

    def __post_init__(self) -> None:
        unnamed = {name: Owner(name, component.kind, name, "", "") for name, component in self.components.items()}
        self.owners = {**unnamed, **self.owners}
        self._addressed: dict[str, _Addressed] = {}
        self._replaced: dict[tuple[str, str], Callable[..., Any]] = {}
        self._manager = _make_manager()
        for name, component in reversed([*self.components.items()]):
            with using(self.owners[name], "its registration"):
                self._manager.register(GuardedHooks(component, self.owners[name], self.muted), name)

    def __getattr__(self, hook: str) -> Callable[..., Any]:
        """Return the call of a hook of all components: see `kdtool.Hooks`."""
        if hook not in SPECS:
            raise AttributeError(f"{hook} is not a hook")
        return partial(self._call_all, SPECS[hook])

    def component(self, name: str, kind: type[K]) -> K:
        """Return one component, whose hooks are called through pluggy: see `kdtool.Hooks.component`."""
        if isinstance(self.components.get(name), kind):
            return cast("K", self._of(name))
        names = [other for other, component in self.components.items() if isinstance(component, kind)]
        wanted = getattr(kind, "kind", "") or "component"
        problem = f"{owner} is not a {wanted}" if (owner := self.owner(name)) else f"no {wanted} is called {name!r}"
        raise UsageError(f"{problem}; {did_you_mean(name, names, what='there are') or f'this recipe has no {wanted}'}")

    def implementing(self, hook: str) -> tuple[str, ...]:
        """Return the names of the components that implement a hook, in the order in which they are called."""
        registered = reversed(getattr(self._manager.hook, hook).get_hookimpls())
        return tuple(each.plugin_name for each in registered if not each.wrapper)

    def bound(self, hook: str) -> dict[str, Callable[..., Any]]:
        """Return each component's hook for hot loops: without pluggy, if no component wraps the hook."""
        spec, registered = SPECS[hook], getattr(self._manager.hook, hook).get_hookimpls()
        through_pluggy = spec.calling.tolerant or any(each.wrapper for each in registered)
        return {
            name: getattr(self._of(name), hook)
            if through_pluggy or (name, hook) in self._replaced
            else blame_errors(getattr(self.components[name], hook), self.owners[name], spec)
            for name in self.implementing(hook)
        }

    def owner(self, name: str) -> Owner | None:
        """Return the plugin that provides the component of that name."""
        return self.owners.get(name)

    def replacing(self, hook: str, by: Mapping[str, Callable[..., Any]]) -> ComponentHooks:
        """Return the same hooks, except that `by[name](call, …)` stands for `call(…)`, the hook of that component."""
        hooks = copy(self)
        hooks._addressed = {}
        hooks._replaced = self._replaced | {(name, hook): other for name, other in by.items()}
        return hooks

    def _of(self, name: str) -> Any:
        return self._addressed.setdefault(name, _Addressed(self.components[name], partial(self._caller, name)))

    def _caller(self, name: str, hook: str) -> Callable[..., Any]:
        """Return the call of one component's hook."""
        spec, component = SPECS[hook], self.components[name]
        thread = self.events.threads.get(name) if self.events and spec.calling.tolerant else None
        if thread and self.whole:
            return cast("Callable[..., Any]", getattr(self.whole._of(name), hook))
        if not implements(type(component), hook):
            if spec.answers.must_answer:
                raise PluginError(f"{self.owner(name)} must implement {hook} for this recipe")
            return lambda *_, **__: None
        registered = getattr(self._manager.hook, hook).get_hookimpls()
        others = [each.plugin for each in registered if not each.wrapper and each.plugin_name != name]
        caller = self._manager.subset_hook_caller(hook, others)

        def call(*args: Any, **kwargs: Any) -> Any:
            if spec.calling.tolerant and name in self.muted:
                return None
            values = spec.values(args, kwargs)
            with self._tolerate_failure(name, spec):
                return caller(component=name, **values)

        if thread:
            return partial(thread.put, hook, call)
        return partial(self._replaced[name, hook], call) if (name, hook) in self._replaced else call

    @contextmanager
    def _tolerate_failure(self, name: str, spec: Spec) -> Iterator[None]:
        """Disable a component that fails in a tolerant hook, unless it is required, with a line for the user."""
        try:
            yield
        except Exception as error:
            owner = owner_of(error) or self.owners[name]
            if owner.name in self.required or not spec.calling.tolerant:
                raise
            self.muted.add(owner.name)
            self.complain(f"{owner} failed in {spec.name}: {cause_of(error)}; disabled for the rest of this run")

    def _call_all(self, spec: Spec, /, *args: Any, **kwargs: Any) -> Any:
        answers: dict[str, Any] = {}
        if self.events and spec.calling.tolerant:
            args, kwargs = (), self.events.record(spec.name, spec.values(args, kwargs))
        for name in self.implementing(spec.name):
            answer = getattr(self._of(name), spec.name)(*args, **kwargs)
            if answer is not None:
                if spec.calling.first:
                    return Named(name, answer)
                answers[name] = answer
        return None if spec.calling.first or spec.answers.is_none else answers


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


class GuardedHooks:
    """A component's hooks and wrappers in the form in which pluggy registers them.

    Args:
        component: the component.
        owner: the plugin that provides it.
        muted: components whose wrappers are passed over.
    """

    def __init__(self, component: Component, owner: Owner, muted: set[str]) -> None:
        for name, spec in SPECS.items():
            function: Any = getattr(type(component), name, None)
            if is_wrapper(function):
                vars(self)[name] = MethodType(_guard_wrapper(function, owner, name, muted), component)
            elif implements(type(component), name):
                vars(self)[name] = MethodType(_guard(function, owner, spec), component)


def blame_errors(method: Callable[..., Any], owner: Owner, spec: Spec) -> Callable[..., Any]:
    """Return a component's hook for hot loops: errors name the component, returned values are not checked.

    Trainers compile it as one graph, which a context manager would break.
    """
    accepted = tuple(inspect.signature(method).parameters)

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            if accepted == spec.arguments:
                return method(*args, **kwargs)
            values = spec.values(args, kwargs)
            return method(*(values[name] for name in accepted))
        except BaseException as error:
            note_owner(error, owner, spec.name)
            raise

    return call


def _guard(function: Callable[..., Any], owner: Owner, spec: Spec) -> Callable[..., Any]:
    @wraps(function)
    def call(component: Component, *args: Any) -> Any:
        with blame(owner, spec.name):
            answer = spec.answers.check(function(component, *args))
        return _guard_generator(answer, owner, spec.name) if inspect.isgenerator(answer) else answer

    return call if hasattr(function, "kdtool_impl") else hookimpl(call)


def _guard_generator(generator: Iterator[Any], owner: Owner, hook: str) -> Iterator[Any]:
    with blame(owner, hook):
        yield from generator


def _guard_wrapper(wrapper: Callable[..., Any], owner: Owner, hook: str, muted: set[str]) -> Callable[..., Any]:
    @wraps(wrapper)
    def call(component: Component, *args: Any) -> Generator[None, Any, Any]:
        if owner.name in muted:
            return (yield)
        with blame(owner, f"its wrapper of {hook}"):
            return (yield from wrapper(component, *args))

    return call
