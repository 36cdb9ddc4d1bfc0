"""Note on an exception which component raised it.

Hooks blame the component that they call, unless the traceback leads on into another one: a trainer calls losses as plain
methods. The engine blames a component for its result, if that fails later.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from kdtool._contract.run_info import Owner
from kdtool._errors import PluginError, is_interrupt

__all__ = ["blame", "owner_of"]

if TYPE_CHECKING:
    from kdtool._contract.component import Component

Components: TypeAlias = "Mapping[str, tuple[Component, Owner]]"
"""The components of a scope with their plugins, by name."""


@contextmanager
def blame(owner: Owner | None, hook: str, others: Components | None = None) -> Iterator[None]:
    """Note on any exception from the block that `owner` raised it in `hook`, or one of `others` that the traceback enters.

    The innermost component wins; Ctrl-C has none.
    """
    try:
        try:
            yield
        except SystemExit as error:
            raise PluginError(f"tried to end the process by sys.exit({error.code!r})") from error
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if owner is not None and owner_of(error) is None and not is_interrupt(error):
            inner, function = _innermost(error, others or {}) or (owner, hook)
            owner, hook = (inner, function) if inner != owner else (owner, hook)
            notes = [*getattr(error, "__notes__", ()), f"raised by {owner} in {hook}"]
            vars(error).update(__kdtool_owner__=owner, __notes__=notes)  # also where the class refuses to be changed
        raise


def owner_of(error: BaseException) -> Owner | None:
    """Return the component that raised `error`, if one did."""
    owner = getattr(error, "__kdtool_owner__", None)
    return owner if isinstance(owner, Owner) else None


def _innermost(error: BaseException, components: Components) -> tuple[Owner, str] | None:
    """Return the component that the traceback enters last, and the function: a method of it, or one in its own package."""
    packages = [_package(type(component).__module__) for component, _ in components.values()]
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        code, package = frame.f_code, _package(frame.f_globals.get("__name__", ""))
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        alone = packages.count(package) == 1 and package != "kdtool"
        for (component, owner), own in zip(components.values(), packages, strict=True):
            if component is first or (alone and own == package):
                return owner, code.co_name
    return None


def _package(module: str) -> str:
    return module.partition(".")[0]
