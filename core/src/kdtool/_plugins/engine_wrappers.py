"""The engine's own wrappers of hooks: blame with the check of answers, tolerance of failing trackers, and tracing.

Each is a pluggy plugin with one wrapper for every hook. The guard is the innermost wrapper: it sees what the component
itself did. Tolerance and tracing are outside of all wrappers of components.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from inspect import isgenerator
from typing import Any

from kdtool._contract.hooks import hookimpl
from kdtool._contract.run_info import Owner
from kdtool._errors import cause_of
from kdtool._plugins.hook_specs import Spec
from kdtool._plugins.owner import Components, blame, owner_of

__all__ = ["engine_wrappers", "guarded_wrapper"]

Wrapper = Callable[[str], Generator[None, Any, Any]]
"""Wraps a call of one hook of the component of that name."""


def engine_wrappers(
    specs: Sequence[Spec],
    components: Components,
    required: frozenset[str],
    trace: Callable[[str], None] | None,
    complain: Callable[[str], None],
    muted: set[str],
) -> Iterator[object]:
    """Yield the plugins that hold the engine's wrappers of these hooks, in the order in which they must be registered."""
    owners = {name: owner for name, (_, owner) in components.items()}
    yield _plugin("Guard", lambda spec: _guard(spec, components), specs, outermost=False)
    notifications = [spec for spec in specs if spec.calling.tolerant]
    yield _plugin(
        "Tolerance", lambda spec: _tolerance(spec, owners, required, complain, muted), notifications, outermost=True
    )
    if trace is not None:
        depth = _Depth()
        yield _plugin("Trace", lambda spec: _trace(spec, trace, depth), specs, outermost=True)


def guarded_wrapper(
    wrapper: Callable[..., Any], owner: Owner, hook: str, muted: set[str]
) -> Callable[..., Generator[None, Any, Any]]:
    """Return a component's wrapper of a hook, whose errors name the component."""

    @wraps(wrapper)
    def guard_call(*args: Any) -> Generator[None, Any, Any]:
        if owner.name in muted:
            return (yield)
        with blame(owner, f"its wrapper of {hook}"):
            return (yield from wrapper(*args))

    return guard_call


def _plugin(name: str, make: Callable[[Spec], Wrapper], specs: Iterable[Spec], *, outermost: bool) -> object:
    mark = hookimpl(wrapper=True, tryfirst=outermost, trylast=not outermost)
    return type(name, (), {spec.name: staticmethod(mark(make(spec))) for spec in specs})


def _guard(spec: Spec, components: Components) -> Wrapper:
    def guard(component: str) -> Generator[None, Any, Any]:
        _, owner = components[component]
        with blame(owner, spec.name, components):
            answer = spec.answers.check((yield))
        return _blamed_generator(answer, owner, spec.name, components) if isgenerator(answer) else answer

    return guard


def _blamed_generator(generator: Iterator[Any], owner: Owner, hook: str, components: Components) -> Iterator[Any]:
    with blame(owner, hook, components):
        yield from generator


def _tolerance(
    spec: Spec,
    owners: Mapping[str, Owner],
    required: frozenset[str],
    complain: Callable[[str], None],
    muted: set[str],
) -> Wrapper:
    def tolerance(component: str) -> Generator[None, Any, Any]:
        try:
            yield
        except Exception as error:
            owner = owner_of(error) or owners[component]
            if owner.name in required:
                raise
            muted.add(owner.name)
            complain(f"{owner} failed in {spec.name}: {cause_of(error)}; disabled for the rest of this run")

    return tolerance


class _Depth(threading.local):
    """The number of traced calls that this thread is in."""

    calls = 0


def _trace(spec: Spec, trace: Callable[[str], None], depth: _Depth) -> Wrapper:
    def trace_call(component: str) -> Generator[None, Any, Any]:
        trace(f"{'  ' * depth.calls}{spec.name} -> {component}")
        depth.calls += 1
        try:
            return (yield)
        finally:
            depth.calls -= 1

    return trace_call
