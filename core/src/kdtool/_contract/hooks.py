"""Declaring how a hook is called, and marking wrappers around hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pluggy

__all__ = ["Calling", "calling_of", "hook", "hookimpl"]

F = TypeVar("F", bound=Callable[..., Any])

hookimpl = pluggy.HookimplMarker("kdtool")
"""Marks a method `kdtool_…` of a component: with `wrapper=True` it wraps that hook of every component of its scope, of any
kind; `tryfirst=True` and `trylast=True` change its place. Hooks of a component's own kind need no mark. Since 0.1."""


@dataclass(frozen=True)
class Calling:
    """The way in which a hook is called.

    `needed`: every component of the kind must implement it. `first`: a call of all components ends with the first answer.
    `tolerant`: a component that raises is disabled for the rest of the run, unless the recipe marks it `required`.
    """

    needed: bool = False
    first: bool = False
    tolerant: bool = False


def hook(*, needed: bool = False, first: bool = False, tolerant: bool = False) -> Callable[[F], F]:
    """Declare how a method of a kind's base class is called; see `Calling`. Without it none of these holds."""

    def declare(function: F) -> F:
        vars(function)["kdtool_calling"] = Calling(needed, first, tolerant)
        return function

    return declare


def calling_of(function: Callable[..., Any]) -> Calling:
    """Return how a hook is called, from its declaration."""
    found = getattr(function, "kdtool_calling", None)
    return found if isinstance(found, Calling) else Calling()
