"""Mistakes of an author that type checkers cannot see: refused when a component is assembled.

`mistakes` looks at a class by `inspect.getattr_static`, only at attributes with our prefix, so that no property runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from kdtool._contract.component import Component, Config
from kdtool._contract.hooks import calling_of
from kdtool._contract.kind_table import reserved_keys
from kdtool._contract.kinds import FORMS, KINDS
from kdtool._contract.teacher import Teacher
from kdtool._plugins.hook_specs import PREFIX, SPECS, implements, is_wrapper
from kdtool._text.did_you_mean import did_you_mean

__all__ = ["implements", "mistakes", "offer_problem"]


def mistakes(cls: object, kind: str) -> Iterator[str]:
    """Yield the mistakes in a class of a component of `kind`."""
    if not inspect.isclass(cls):
        yield f"is not a class but {type(cls).__name__}"
        return
    extended = [form for form in FORMS[kind] if issubclass(cls, form)]
    if len(extended) != 1:
        others = [other for other, base in KINDS.items() if other != kind and issubclass(cls, base)]
        forms = " or ".join(f"kdtool.{form.__name__}" for form in FORMS[kind])
        expected = f"extends more than one of {forms}" if extended else f"does not extend {forms}"
        yield f"is a {others[0]}, not a {kind}" if others else expected
        return
    (base,) = extended
    if cls.__eq__ is not object.__eq__ or cls.__hash__ is not object.__hash__:
        yield "overrides equality, which identifies components; remove __eq__ and __hash__"
    yield from _config_mistakes(getattr(cls, "Config", None))
    offered = [name for name in SPECS if hasattr(base, name) and not hasattr(Component, name)]
    needed = sorted(name for name in offered if calling_of(getattr(base, name)).needed)
    for name in needed:
        if not implements(cls, name):
            yield f"has no {name}, which every {kind} needs{_name_hint(cls, [name])}"
    hooks = [name for name in dir(cls) if name.startswith(PREFIX)]
    if not needed and all(inspect.getattr_static(cls, name) is getattr(base, name, None) for name in hooks):
        yield f"has none of the hooks of a {kind}: {', '.join(offered)}{_name_hint(cls, offered)}"
    for name in hooks:
        yield from _hook_mistakes(cls, base, name)


def offer_problem(component: object) -> str:
    """Return the hook that a teacher lacks for a signal that it offers; "" if it lacks none."""
    for kind in sorted(component.offers) if isinstance(component, Teacher) else ():
        hook = "kdtool_answer" if kind == "text" else "kdtool_signal"
        if not implements(type(component), hook):
            return f"offers {kind!r}, but has no {hook}{_name_hint(type(component), [hook])}"
    return ""


def _name_hint(cls: type, hooks: Iterable[str]) -> str:
    """Return a hint at the attribute whose name is close to that of a missing hook, such as one without the prefix."""
    others = [name for name in dir(cls) if not hasattr(Component, name) and not name.startswith(PREFIX)]
    for hook in hooks:
        for name in (hook.removeprefix(PREFIX), hook):
            if close := get_close_matches(name, others, n=1):
                return f"; did you mean {hook!r} by {close[0]!r}?"
    return ""


def _config_mistakes(config: object) -> Iterator[str]:
    if not (inspect.isclass(config) and issubclass(config, Config)):
        yield "has a Config that does not extend kdtool.Config"
        return
    for field in sorted(reserved_keys() & set(config.model_fields)):
        yield f"has a Config field named {field!r}, which is a key of kdtool itself; rename it"


def _hook_mistakes(cls: type, base: type[Component], name: str) -> Iterator[str]:
    method = inspect.getattr_static(cls, name)
    wraps = is_wrapper(method)
    if not (hasattr(base, name) or (wraps and name in SPECS)):
        if name in SPECS:
            wrap = "to wrap it, mark it with @kdtool.hookimpl(wrapper=True)"
            yield f"has {name}, a hook of kdtool.{SPECS[name].owner}; {wrap}"
        else:
            hooks = [hook for hook in SPECS if hasattr(base, hook)]
            hint = did_you_mean(name, hooks, what=f"hooks of kdtool.{base.__name__}")
            yield f"has {name}, which is not a hook; {hint}"
    elif wraps or implements(cls, name):
        yield from _method_mistakes(name, method, (*SPECS[name].arguments, *["component"] * wraps))
        if wraps and not inspect.isgeneratorfunction(method):
            yield f"has {name} as a wrapper that does not yield; write `answer = yield` at the place of the call"
        if wraps and name == "kdtool_close":
            yield "wraps kdtool_close, which is called on each component separately"


def _method_mistakes(name: str, method: object, declared: tuple[str, ...]) -> Iterator[str]:
    if not inspect.isfunction(method):
        yield f"has {name} as {type(method).__name__}; a hook is a plain method"
        return
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        yield f"has {name} as async def; a hook is a plain method (run your event loop inside it)"
        return
    parameters = [*inspect.signature(method).parameters.values()]
    if not parameters or parameters[0].name in declared:
        yield f"has {name} without self, the first argument of a method"
    for parameter in parameters[1:]:
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            yield f"has {name} with argument {parameter}; it takes plain arguments from ({', '.join(declared)})"
        elif parameter.name not in declared:
            hint = did_you_mean(parameter.name, declared, what="its arguments")
            yield f"has {name} with an argument {parameter.name!r} that the hook does not have; {hint}"
