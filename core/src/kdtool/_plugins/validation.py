"""Registering components: what the type checkers cannot see of an author's mistakes is refused here.

`mistakes` looks at a class by `inspect.getattr_static`, only at attributes with our prefix, so that no property runs.
`ComponentManager` is a pluggy manager that takes `kdtool_…` methods as hooks without any marker.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pluggy

from kdtool._contract.component import Component, Config
from kdtool._contract.kinds import KINDS
from kdtool._plugins.hook_list import Hooks
from kdtool._plugins.hooks import Spec
from kdtool._text.did_you_mean import did_you_mean

PREFIX = "kdtool_"
_OWN_KEYS = "use weight teacher share steps losses transforms weightings required trainer"
RESERVED_KEYS = frozenset(_OWN_KEYS.split())
"""The core's own keys of a component's entry: a `Config` must not have fields of these names."""
_NEEDED = "annotate build_student evaluate examples export recall record report rows screen train wanted"
"""Hooks without which a component is of no use to its kind."""
SPECS: dict[str, Spec[Any, Any, Any]] = {name: spec for name, spec in vars(Hooks).items() if isinstance(spec, Spec)}


def mistakes(cls: object, kind: str) -> Iterator[str]:
    """Yield what is wrong with a class that is to be a component of `kind`."""
    base = KINDS[kind]
    if not inspect.isclass(cls):
        yield f"is no class but {type(cls).__name__}"
        return
    if not issubclass(cls, base):
        others = [other for other, other_base in KINDS.items() if issubclass(cls, other_base)]
        yield f"is a {others[0]}, not a {kind}" if others else f"does not extend kdtool.{base.__name__}"
        return
    if cls.__eq__ is not object.__eq__ or cls.__hash__ is not object.__hash__:
        yield "overrides equality, by which components are told apart; remove __eq__ and __hash__"
    yield from _config_mistakes(cls)
    needed = {PREFIX + name for name in _NEEDED.split()} & vars(base).keys()
    yield from (f"has no {name}, which every {kind} needs" for name in sorted(needed) if not implements(cls, name))
    for name in dir(cls):
        if name.startswith(PREFIX):
            yield from _hook_mistakes(cls, base, name)


def implements(cls: type, name: str) -> bool:
    """Return whether the class has its own version of a hook, not the inherited default."""
    found = inspect.getattr_static(cls, name, None)
    return not any(found is vars(base).get(name) for base in (Component, *KINDS.values()))


def _config_mistakes(cls: type[Component]) -> Iterator[str]:
    config = cls.Config
    if not (inspect.isclass(config) and issubclass(config, Config)):
        yield "has a Config that does not extend kdtool.Config"
        return
    for field in sorted(RESERVED_KEYS & set(config.model_fields)):
        yield f"has a Config field named {field!r}, which is a key of kdtool itself; rename it"


def _hook_mistakes(cls: type, base: type[Component], name: str) -> Iterator[str]:
    if not hasattr(base, name):
        what = "a hook of another kind" if name in SPECS else "which is no hook"
        hooks = [hook for hook in SPECS if hasattr(base, hook)]
        yield f"has {name}, {what}; {did_you_mean(name, hooks, what='hooks of this kind')}"
        return
    if not implements(cls, name):
        return
    found = inspect.getattr_static(cls, name)
    if not inspect.isfunction(found):
        yield f"has {name} as {type(found).__name__}; a hook is a plain method"
        return
    if inspect.iscoroutinefunction(found) or inspect.isasyncgenfunction(found):
        yield f"has {name} as async def; a hook is a plain method (run your event loop inside it)"
        return
    declared = tuple(inspect.signature(getattr(base, name)).parameters)[1:]
    for parameter in tuple(inspect.signature(found).parameters.values())[1:]:
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            yield f"has {name} with argument {parameter}; it takes plain arguments from ({', '.join(declared)})"
        elif parameter.name not in declared:
            hint = did_you_mean(parameter.name, declared, what="its arguments")
            yield f"has {name} with an argument {parameter.name!r} that the hook does not have; {hint}"


class ComponentManager(pluggy.PluginManager):
    """A pluggy manager for one scope: one phase of one arm with the components that the run shares."""

    def __init__(self) -> None:
        super().__init__("kdtool")
        self.add_hookspecs(_DECLARATIONS)

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:
        """Take every declared hook."""
        return {} if module_or_class is _DECLARATIONS and name.startswith(PREFIX) else None

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Take a component's own hooks; inherited defaults are none."""
        return {} if name.startswith(PREFIX) and implements(type(plugin), name) else None


_DECLARATIONS = type("Declarations", (), {name: spec.declared for name, spec in SPECS.items()})
