"""Guards around a component's methods: errors name the component, and returned values are checked.

A guard is the innermost layer of a call: wrappers of other components see its errors and results.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator
from functools import wraps
from types import MethodType
from typing import Any

from kdtool._contract.component import Component
from kdtool._contract.hooks import hookimpl
from kdtool._contract.run_info import Owner
from kdtool._plugins.hook_specs import SPECS, Spec, implements, is_wrapper
from kdtool._plugins.owner import blame, note_owner

__all__ = ["GuardedHooks", "blame_errors"]


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
