"""Answers of components, compared with what their hooks declare to return.

The guard asks here at every call of a hook, so that no caller meets a wrong value: the component that returned it is blamed
where it did. Compared are the classes of values, of records' fields, of what mappings and sequences hold, and of the items
of iterators as they come. Not compared are tensors, and the elements of sequences inside a record, which may be as long as a
row. Hot loops take `Hooks.bound` and are not checked at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kdtool._errors import PluginError

__all__ = ["Answers", "attribute_problem", "require"]

_SHOWN = 60
_OF_TORCH = {"Tensor": Any, "Module": Any}
"""Names that annotations take from torch, which is not imported: any value will do."""
_OF_THE_CLASS = {"kind", "config"}
"""Attributes of components that others check: registration, and pydantic."""
_UNIONS = {Union, UnionType}


class Answers:
    """What one hook may return, from the return annotation of its declaration."""

    def __init__(self, declared: Callable[..., Any]) -> None:
        self._declared = declared

    @cached_property
    def _hint(self) -> Any:
        return get_type_hints(self._declared, localns=_OF_TORCH)["return"]

    @cached_property
    def none_at_all(self) -> bool:
        """Whether nobody looks at what the hook returns."""
        return self._hint is NoneType

    @cached_property
    def must_answer(self) -> bool:
        """Whether None is not allowed: it is not in the declared return type."""
        return self._hint is not NoneType and NoneType not in get_args(self._hint)

    @cached_property
    def _item(self) -> Any:
        options = get_args(self._hint) if get_origin(self._hint) in _UNIONS else (self._hint,)
        return next((get_args(option)[0] for option in options if get_origin(option) is Iterator), None)

    def checked(self, answer: Any) -> Any:
        """Return the answer; iterators are checked item by item while they are read.

        Raises:
            PluginError: the hook does not allow it.
        """
        if self.none_at_all or (answer is None and not self.must_answer):
            return None
        if answer is None:
            raise self._refused("answer", f" is None, not {_name(self._hint)}")
        if self._item is None:
            self._refuse("answer", answer, self._hint)
            return answer
        if not isinstance(answer, Iterable) or isinstance(answer, str | bytes | Mapping):
            raise self._refused("answer", _is_not(answer, self._hint))
        return self._items(answer)

    def _items(self, answer: Iterable[Any]) -> Iterator[Any]:
        for number, item in enumerate(answer):
            self._refuse(f"item {number}", item, self._item)
            yield item

    def _refuse(self, what: str, value: Any, hint: Any) -> None:
        if problem := _problem(value, hint):
            raise self._refused(what, problem)

    def _refused(self, what: str, problem: str) -> PluginError:
        return PluginError(f"{self._declared.__name__} gave what it must not: the {what}{problem}")


def require(value: Any, cls: type, what: str) -> None:
    """Refuse a value that a component gave outside of a hook's answer; `what` is its name.

    Raises:
        PluginError: it is not what `cls` says.
    """
    if problem := _problem(value, cls):
        raise PluginError(f"the {what}{problem}")


def attribute_problem(component: object, base: type) -> str:
    """Say which attribute of a component is not what its kind's base class, or that of all kinds, declares; "" for none."""
    if not isinstance(component, base):
        return f"building it gives something of class {type(component).__name__}"
    found = (
        f"its attribute {name}{problem}"
        for name, hint in get_type_hints(base, localns=_OF_TORCH).items()
        if name not in _OF_THE_CLASS and (problem := _problem(getattr(component, name), hint))
    )
    return next(found, "")


def _problem(value: Any, hint: Any, *, inside: bool = False) -> str:
    """Say what is wrong with a value, beginning behind its name (`.split is 3, not str`); "" for nothing.

    `inside` a record or a mapping, sequences are not read.
    """
    origin, options = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        found = [_problem(value, option, inside=inside) for option in options]
        return "" if "" in found else next((one for one in found if not one.startswith(" is ")), _is_not(value, hint))
    if origin is Literal:
        good = any(type(value) is type(option) and value == option for option in options)
    else:
        good = hint is Any or _is_instance(value, origin or hint, inside)
    return (
        next(filter(None, _problems_inside(value, hint, origin, options, inside)), "") if good else _is_not(value, hint)
    )


def _is_instance(value: Any, cls: Any, inside: bool) -> bool:
    if getattr(cls, "_is_protocol", False):
        return all(hasattr(type(value), name) or hasattr(value, name) for name in vars(cls) if not name.startswith("_"))
    if cls is Sequence:
        return not isinstance(value, str | (NoneType if inside else bytes)) and (
            isinstance(value, Sequence) or (inside and hasattr(value, "__len__"))
        )
    allowed = (int, float) if cls is float else cls
    return isinstance(value, allowed) and not (
        cls in {int, float} and isinstance(value, bool)
    )  # True is an int to Python


def _problems_inside(value: Any, hint: Any, origin: Any, options: Sequence[Any], inside: bool) -> Iterator[str]:
    if isinstance(hint, type) and is_dataclass(hint):
        for name, declared in _fields(hint):
            yield _behind(f".{name}", _problem(getattr(value, name, None), declared, inside=True))
    elif origin is tuple and Ellipsis not in options:
        yield "" if len(value) == len(options) else f" has {len(value)} entries, not {len(options)}"
        for number, (item, declared) in enumerate(zip(value, options, strict=True)):
            yield _behind(f"[{number}]", _problem(item, declared, inside=inside))
    elif origin in {tuple, frozenset} or (origin is Sequence and not inside):
        for number, item in enumerate(value):
            yield _behind(f"[{number}]", _problem(item, options[0], inside=inside))
    elif origin is Mapping:
        for key, entry in value.items():
            yield _behind(f"'s key {key!r}", _problem(key, options[0]))
            yield _behind(f"[{key!r}]", _problem(entry, options[1], inside=True))


def _behind(name: str, problem: str) -> str:
    return problem and f"{name}{problem}"


@cache
def _fields(record: Any) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(record, localns=_OF_TORCH)
    return tuple((field.name, hints[field.name]) for field in fields(record))


def _is_not(value: Any, hint: Any) -> str:
    if value is None or isinstance(value, str | int | float):
        shown = repr(value)
        return f" is {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'}, not {_name(hint)}"
    return f" is of class {type(value).__module__}.{type(value).__qualname__}, not {_name(hint)}"


def _name(hint: Any) -> str:
    if get_origin(hint) in _UNIONS:
        return " or ".join(_name(option) for option in get_args(hint) if option is not NoneType)
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else re.sub(r"\b[a-z_]\w*\.", "", str(hint))
