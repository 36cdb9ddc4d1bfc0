"""Hooks as the base classes of the kinds declare them, and mistakes in classes that implement them.

Of values that plugins return or declare only the outer class is checked: not the fields of records, nor the entries of
mappings and sequences. Hot loops take `Hooks.bound`, which is not checked at all. `mistakes` refuses, when a component is
assembled, what type checkers cannot see. It looks at a class by `inspect.getattr_static`, only at attributes with our
prefix, so that no property runs.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kdtool._contract.component import Calling, Component, Config, calling_of
from kdtool._contract.kind_table import TABLE, reserved_keys
from kdtool._contract.sources import Teacher
from kdtool._errors import PluginError
from kdtool._text.names import did_you_mean

KINDS: Mapping[str, type[Component]] = {kind.name: pkgutil.resolve_name(kind.base) for kind in TABLE}
"""The base class of each kind, by the kind's name."""
FORMS: Mapping[str, tuple[type[Component], ...]] = {
    kind.name: tuple(map(pkgutil.resolve_name, kind.forms or (kind.base,))) for kind in TABLE
}
"""The classes of which a component extends exactly one, by the kind's name: the base class, except for losses."""


def form_of(cls: type, kind: str) -> type[Component]:
    """Return the class of its kind's forms that a component's class extends."""
    return next(form for form in FORMS[kind] if issubclass(cls, form))


_SHOWN = 60
_OF_TORCH = {"Tensor": Any, "Module": Any, "TorchOptimizer": Any}
"""Names in annotations that stand for torch's classes, which are not imported: any value fits."""


class ReturnType:
    """The declared return type of a hook."""

    def __init__(self, declared: Callable[..., Any]) -> None:
        self._hook = declared.__name__
        self._declared = declared

    @cached_property
    def _options(self) -> tuple[Any, ...]:
        return _options_of(get_type_hints(self._declared, localns=_OF_TORCH)["return"])

    @property
    def is_none(self) -> bool:
        """True for a notification: its return value is ignored."""
        return self._options == (NoneType,)

    @property
    def must_answer(self) -> bool:
        """True if None is refused."""
        return NoneType not in self._options

    def check(self, answer: Any) -> Any:
        """Return the answer; an iterator's items are checked while they are read.

        Raises:
            PluginError: the answer does not have the declared type.
        """
        if self.is_none:
            return None
        self._refuse(f"{self._hook} must return", answer, self._options)
        items = next((_options_of(get_args(item)[0]) for item in self._options if get_origin(item) is Iterator), ())
        return self._check_items(answer, items) if items and isinstance(answer, Iterable) else answer

    def _check_items(self, answer: Iterable[Any], types: tuple[Any, ...]) -> Iterator[Any]:
        for item in answer:
            self._refuse(f"{self._hook} must return an iterator of", item, types)
            yield item

    def _refuse(self, sentence: str, value: Any, types: tuple[Any, ...]) -> None:
        if not any(_fits(value, declared) for declared in types):
            raise PluginError(f"{sentence} {_names(types)}, but returned {_describe(value)}")


def attribute_problem(component: object, base: type) -> str:
    """Return how an attribute of a component differs from its declaration in the kind's base class; "" if none does."""
    if not isinstance(component, base):
        return f"building it gives something of class {type(component).__name__}"
    for name, hint in get_type_hints(base).items():
        value, options = getattr(component, name), _options_of(hint)
        if name not in {"kind", "config"} and not any(_fits(value, declared) for declared in options):
            return f"its attribute {name} must be {_names(options)}, but is {_describe(value)}"
    return ""


def _options_of(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    cls = get_origin(hint) or hint
    if cls is Literal:
        return value in get_args(hint)
    if cls is Any or getattr(cls, "_is_protocol", False):
        return cls is Any or all(hasattr(value, name) for name in vars(cls) if not name.startswith("_"))
    if cls in {Iterator, Sequence} and isinstance(value, str | bytes | Mapping):  # a text is not a sequence of texts
        return False
    accepted: Any = {float: (int, float), Iterator: Iterable}.get(cls, cls)
    return isinstance(value, accepted)


def _names(types: tuple[Any, ...]) -> str:
    return " or ".join("None" if hint is NoneType else _name(hint) for hint in types)


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return str((get_origin(hint) or hint).__name__)


def _describe(value: Any) -> str:
    if value is None or isinstance(value, str | int | float):
        return repr(value)[:_SHOWN]
    return f"an object of class {type(value).__module__}.{type(value).__qualname__}"


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
