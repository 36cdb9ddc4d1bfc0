"""All hooks, as the base classes of the kinds declare them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kdtool._contract.component import Component
from kdtool._contract.hooks import Calling, calling_of
from kdtool._contract.kinds import FORMS, KINDS
from kdtool._plugins.return_types import ReturnType

__all__ = ["BASES", "PREFIX", "SPECS", "Spec", "implements", "is_wrapper"]

PREFIX = "kdtool_"
BASES: tuple[type[Component], ...] = (Component, *KINDS.values(), *(form for forms in FORMS.values() for form in forms))
"""The classes that declare hooks."""


@dataclass(frozen=True)
class Spec:
    """A hook's declaration: its name, the class that declares it, the way of calling it, argument names and return type."""

    name: str
    owner: str
    declared: Callable[..., Any]
    calling: Calling
    arguments: tuple[str, ...]
    answers: ReturnType

    def values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name.

        Raises:
            TypeError: they are not the hook's.
        """
        values = {**dict(zip(self.arguments, args, strict=False)), **kwargs}
        if len(args) > len(self.arguments) or values.keys() != set(self.arguments):
            raise TypeError(f"{self.name} takes exactly ({', '.join(self.arguments)})")
        return values


def _read_declarations() -> dict[str, Spec]:
    specs: dict[str, Spec] = {}
    for base in BASES:
        for name, declared in vars(base).items():
            if name.startswith(PREFIX) and name not in specs:
                _, *arguments = inspect.signature(declared).parameters
                calling, answers = calling_of(declared), ReturnType(declared)
                specs[name] = Spec(name, base.__name__, declared, calling, tuple(arguments), answers)
    return specs


SPECS: Mapping[str, Spec] = _read_declarations()
"""Every hook by name."""


def implements(cls: type, name: str) -> bool:
    """Return whether the class has its own version of a hook: no inherited default, and no wrapper."""
    method = inspect.getattr_static(cls, name, None)
    return not is_wrapper(method) and not any(method is vars(base).get(name) for base in BASES)


def is_wrapper(function: object) -> bool:
    """Return whether a method is marked as a wrapper of hooks."""
    options = getattr(function, "kdtool_impl", None)
    return isinstance(options, dict) and bool(options.get("wrapper") or options.get("hookwrapper"))
