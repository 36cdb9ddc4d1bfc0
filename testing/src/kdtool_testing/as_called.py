"""Components as kdtool calls them: a method that wraps other components' hooks is not the component's hook."""

from __future__ import annotations

from typing import Any

from kdtool import Component

__all__ = ["as_called"]


def as_called(component: Component) -> Any:
    """Return a view of a component whose wrappers of hooks are replaced by hooks that do nothing."""
    return _View(component)


class _View:
    def __init__(self, component: Component) -> None:
        self._component = component

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._component, name)
        return _do_nothing if getattr(found, "kdtool_impl", {}).get("wrapper") else found


def _do_nothing(*_: object) -> None:
    """Return nothing, as a hook that is not implemented."""
