"""Answers: what a component returned, compared with what its hook declares to return.

The guard asks here at every call of a hook, so that no caller meets a wrong value: the component that gave it is blamed
where it gave it. Compared are the classes of values, of records' fields, of what mappings and sequences hold, and of the
items of iterators as they come. Not compared are tensors, and the elements of sequences inside a record, which may be as
long as a row. Hot loops take `Hooks.bound` and are not checked at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, cached_property, reduce
from operator import or_
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kdtool._errors import PluginError

__all__ = ["Answers", "attribute_problem", "require"]

Check = Callable[[Any], str]
"""Says what is wrong with a value, beginning behind its name (`.split is 3, not str`); "" for nothing."""
_SHOWN = 60
_OF_TORCH = {"Tensor": Any, "Module": Any}
"""Names that annotations take from torch, which is not imported: any value will do."""
_OF_THE_CLASS = {"kind", "config"}
"""Attributes of components that others check: registration, and pydantic."""


class Answers:
    """What one hook may return, from the return annotation of its declaration."""

    def __init__(self, declared: Callable[..., Any]) -> None:
        self._declared = declared

    @cached_property
    def none_at_all(self) -> bool:
        """Whether nobody looks at what the hook returns."""
        return self._declared_hint is NoneType

    @cached_property
    def must_answer(self) -> bool:
        """Whether None is refused: it is not in the declared return type."""
        return not self.none_at_all and NoneType not in get_args(self._declared_hint)

    def checked(self, answer: Any) -> Any:
        """Return the answer; iterators are checked item by item while they are read.

        Raises:
            PluginError: the hook does not allow it.
        """
        if self.none_at_all or (answer is None and not self.must_answer):
            return None
        if answer is None:
            raise self._refused("answer", f" is None, not {_name(self._hint)}")
        if get_origin(self._hint) is Iterator:
            if not isinstance(answer, Iterable) or isinstance(answer, str | bytes | Mapping):
                raise self._refused("answer", _is_not(answer, self._hint))
            return self._items(answer)
        if problem := self._check(answer):
            raise self._refused("answer", problem)
        return answer

    def _items(self, answer: Iterable[Any]) -> Iterator[Any]:
        check = self._check
        for number, item in enumerate(answer):
            if problem := check(item):
                raise self._refused(f"item {number}", problem)
            yield item

    def _refused(self, what: str, problem: str) -> PluginError:
        return PluginError(f"{self._declared.__name__} gave what it must not: the {what}{problem}")

    @cached_property
    def _declared_hint(self) -> Any:
        return get_type_hints(self._declared, localns=_OF_TORCH)["return"]

    @cached_property
    def _hint(self) -> Any:
        hint = self._declared_hint
        kept = [option for option in get_args(hint) if option is not NoneType] if _is_union(hint) else [hint]
        return reduce(or_, kept)

    @cached_property
    def _check(self) -> Check:
        return _check_of(get_args(self._hint)[0] if get_origin(self._hint) is Iterator else self._hint)


def require(value: Any, cls: type, what: str) -> None:
    """Refuse a value that a component gave outside of a hook's answer; `what` is its name.

    Raises:
        PluginError: it is not what `cls` says.
    """
    if problem := _check_of(cls)(value):
        raise PluginError(f"the {what}{problem}")


def attribute_problem(component: object, base: type) -> str:
    """Say which attribute of a component is not what its kind's base class, or that of all kinds, declares; "" for none."""
    if not isinstance(component, base):
        return f"building it gives something of class {type(component).__name__}"
    for name, hint in get_type_hints(base, localns=_OF_TORCH).items():
        if name in _OF_THE_CLASS:
            continue
        if problem := _check_of(hint)(getattr(component, name)):
            return f"its attribute {name}{problem}"
    return ""


@cache
def _check_of(hint: Any) -> Check:
    origin, options = get_origin(hint), get_args(hint)
    if hint in {Any, NoneType}:
        return lambda value: "" if hint is Any or value is None else _is_not(value, hint)
    if _is_union(hint):
        checks = [_check_of(option) for option in options]
        return lambda value: "" if any(not check(value) for check in checks) else _union_problem(value, hint, checks)
    if origin is Literal:
        kinds = tuple({type(option) for option in options})
        others = () if bool in kinds else (bool,)  # True is equal to 1
        return lambda value: (
            ""
            if isinstance(value, kinds) and not isinstance(value, others) and value in options
            else _is_not(value, hint)
        )
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_check(hint, _check_of(options[0]), _field_check(options[1]))
    if origin is not None:
        return _sequence_check(hint, origin, options)
    if getattr(hint, "_is_protocol", False):
        return _protocol_check(hint)
    return _record_check(hint) if is_dataclass(hint) else _class_check(hint)


def _union_problem(value: Any, hint: Any, checks: Sequence[Check]) -> str:
    inside = [problem for problem in (check(value) for check in checks) if not problem.startswith(" is ")]
    return inside[0] if inside else _is_not(value, hint)


def _mapping_check(hint: Any, of_key: Check, of_value: Check) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, Mapping):
            return _is_not(value, hint)
        for key, entry in value.items():
            if problem := of_key(key):
                return f"'s key {key!r}{problem}"
            if problem := of_value(entry):
                return f"[{key!r}]{problem}"
        return ""

    return check


def _sequence_check(hint: Any, origin: Any, options: tuple[Any, ...]) -> Check:
    fixed = [_check_of(option) for option in options] if origin is tuple and Ellipsis not in options else None
    of_item = _check_of(options[0])

    def check(value: Any) -> str:
        if not isinstance(value, origin) or isinstance(value, str | bytes):
            return _is_not(value, hint)
        if fixed is not None and len(value) != len(fixed):
            return f" has {len(value)} entries, not {len(fixed)}"
        for number, item in enumerate(value):
            if problem := (fixed[number] if fixed else of_item)(item):
                return f"[{number}]{problem}"
        return ""

    return check


def _protocol_check(protocol: Any) -> Check:
    members = [name for name in vars(protocol) if not name.startswith("_")]

    def check(value: Any) -> str:
        missing = [name for name in members if not hasattr(type(value), name) and not hasattr(value, name)]
        return f"{_is_not(value, protocol)}: it has no {', '.join(missing)}" if missing else ""

    return check


def _record_check(record: Any) -> Check:
    hints = get_type_hints(record, localns=_OF_TORCH)
    checks = [(field.name, _field_check(hints[field.name])) for field in fields(record)]

    def check(value: Any) -> str:
        if not isinstance(value, record):
            return _is_not(value, record)
        for name, of_field in checks:
            if problem := of_field(getattr(value, name, None)):
                return f".{name}{problem}"
        return ""

    return check


def _field_check(hint: Any) -> Check:
    if get_origin(hint) is not Sequence:
        return _check_of(hint)
    return lambda value: "" if hasattr(value, "__len__") and not isinstance(value, str) else _is_not(value, hint)


def _class_check(cls: Any) -> Check:
    allowed = (int, float) if cls is float else cls
    if cls in {int, float}:  # True is an int to Python, and a mistake here
        return lambda value: "" if isinstance(value, allowed) and not isinstance(value, bool) else _is_not(value, cls)
    return lambda value: "" if isinstance(value, allowed) else _is_not(value, cls)


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in {Union, UnionType}


def _is_not(value: Any, hint: Any) -> str:
    if value is None or isinstance(value, str | int | float):
        shown = repr(value)
        return f" is {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'}, not {_name(hint)}"
    return f" is of class {type(value).__module__}.{type(value).__qualname__}, not {_name(hint)}"


def _name(hint: Any) -> str:
    if _is_union(hint):
        return " or ".join(_name(option) for option in get_args(hint))
    if hint in {Any, NoneType}:
        return "None" if hint is NoneType else "a value"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else re.sub(r"\b[a-z_]\w*\.", "", str(hint))
