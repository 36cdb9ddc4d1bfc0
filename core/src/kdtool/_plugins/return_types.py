"""Check the classes of values that plugins return or declare, so that errors name the component.

Only the outer class is checked: not the fields of records, nor the entries of mappings and sequences. Hot loops take
`Hooks.bound`, which is not checked at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kdtool._errors import PluginError

__all__ = ["ReturnType", "attribute_problem"]

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
