"""Compare what hooks return with their declared types, so that errors name the component that returned it.

Compared are the classes of values, of records' fields, of entries of mappings and sequences, and of iterators' items as
they are read. Tensors are not compared, nor the entries of sequences inside records, which may be as long as a row. Hot
loops take `Hooks.bound`, which is not compared at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kdtool._errors import PluginError
from kdtool._text.did_you_mean import did_you_mean

__all__ = ["ReturnType", "attribute_problem", "require"]

_SHOWN = 60
_OF_TORCH = {"Tensor": Any, "Module": Any}
"""Names in annotations that stand for torch's classes, which are not imported: any value fits."""
_UNIONS = (Union, UnionType)


class ReturnType:
    """The declared return type of a hook."""

    def __init__(self, declared: Callable[..., Any]) -> None:
        self._hook = declared.__name__
        self._declared = declared

    @cached_property
    def _hint(self) -> Any:
        return get_type_hints(self._declared, localns=_OF_TORCH)["return"]

    @property
    def is_none(self) -> bool:
        """True for a notification: its return value is ignored."""
        return self._hint is NoneType

    @cached_property
    def must_answer(self) -> bool:
        """True if None is refused."""
        return not self.is_none and NoneType not in get_args(self._hint)

    @cached_property
    def _item(self) -> Any:
        """The type of an iterator's items, None for other answers."""
        options = get_args(self._hint) if get_origin(self._hint) in _UNIONS else (self._hint,)
        return next((get_args(option)[0] for option in options if get_origin(option) is Iterator), None)

    def check(self, answer: Any) -> Any:
        """Return the answer; an iterator's items are checked while they are read.

        Raises:
            PluginError: the answer does not have the declared type.
        """
        if self.is_none:
            return None
        if isinstance(answer, Iterable) and not isinstance(answer, str | bytes | Mapping) and self._item is not None:
            return self._check_items(answer)
        self._refuse("answer", _problem(answer, self._hint))
        return answer

    def _check_items(self, answer: Iterable[Any]) -> Iterator[Any]:
        for number, item in enumerate(answer):
            self._refuse(f"item {number}", _problem(item, self._item))
            yield item

    def _refuse(self, what: str, problem: str) -> None:
        found, _, wanted = problem.removeprefix(" is ").rpartition(", not ")
        if what == "answer" and problem.startswith(" is "):
            found = found.replace("of class ", "an object of class ", 1)
            raise PluginError(f"{self._hook} must return {wanted}, but returned {found}")
        if problem:
            raise PluginError(f"{self._hook} returned a wrong value: the {what}{problem}")


def require(value: Any, cls: type, what: str) -> None:
    """Refuse a component's value that no hook returned; `what` is its name.

    Raises:
        PluginError: it is not of class `cls`.
    """
    if problem := _problem(value, cls):
        raise PluginError(f"the {what}{problem}")


def attribute_problem(component: object, base: type) -> str:
    """Return how an attribute of a component differs from its declaration in the kind's base class; "" if none does."""
    if not isinstance(component, base):
        return f"building it gives something of class {type(component).__name__}"
    for name, hint in _hints(base).items():
        problem = "" if name in {"kind", "config"} else _problem(getattr(component, name), hint)
        if problem:
            return f"its attribute {name}{problem}"
    return ""


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    found = get_type_hints(cls, localns=_OF_TORCH)
    return {field.name: found[field.name] for field in fields(cls)} if is_dataclass(cls) else found


def _problem(value: Any, hint: Any, *, shallow: bool = False) -> str:
    """Return how a value differs from a type, to stand behind its name (`.split is 3, not str`); "" if it does not."""
    origin, options = get_origin(hint), get_args(hint)
    parts: Iterable[tuple[str, Any, Any]] = ()
    if origin in _UNIONS:
        problems = [_problem(value, option, shallow=shallow) for option in options]
        inside = [problem for problem in problems if not problem.startswith(" is ")]
        return "" if "" in problems else (*inside, _is_not(value, hint))[0]
    if origin is Literal:
        fits = any(type(value) is type(option) and value == option for option in options)
        return "" if fits else _is_not(value, hint)
    if shallow and origin is Sequence:
        return "" if hasattr(value, "__len__") and not isinstance(value, str) else _is_not(value, hint)
    if not _is_instance(value, origin or hint):
        return _is_not(value, hint)
    if origin is None:
        members = _hints(hint).items() if is_dataclass(hint) else ()  # type: ignore[arg-type]  # of a class, not an instance
        parts = ((f".{name}", getattr(value, name), of) for name, of in members)
    elif issubclass(origin, Mapping):
        keys = ((f"'s key {key!r}", key, options[0]) for key in value)
        parts = (*keys, *((f"[{key!r}]", entry, options[1]) for key, entry in value.items()))
    elif origin is tuple and Ellipsis not in options:
        if len(value) != len(options):
            return f" has {len(value)} entries, not {len(options)}"
        parts = ((f"[{number}]", *entry) for number, entry in enumerate(zip(value, options, strict=True)))
    else:
        parts = ((f"[{number}]", entry, options[0]) for number, entry in enumerate(value))
    inner = origin is None or issubclass(origin, Mapping)
    found = ((name, _problem(part, of, shallow=inner)) for name, part, of in parts)
    return next((f"{name}{problem}" for name, problem in found if problem), "")


def _is_instance(value: Any, cls: Any) -> bool:
    if cls is Any:
        return True
    if getattr(cls, "_is_protocol", False):
        return all(hasattr(value, name) for name in vars(cls) if not name.startswith("_"))
    if cls in {int, float} and isinstance(value, bool):  # True is an int to Python, and a mistake here
        return False
    return isinstance(value, (int, float) if cls is float else cls) and not (
        cls is Sequence and isinstance(value, str | bytes)
    )


def _is_not(value: Any, hint: Any) -> str:
    if value is None or isinstance(value, str | int | float):
        shown = repr(value)
        words = _words(hint)
        if isinstance(value, str) and words and value not in words:
            return f" is {shown[:_SHOWN]}, not {_name(hint)}; {did_you_mean(value, words, what='words')}"
        return f" is {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'}, not {_name(hint)}"
    return f" is of class {type(value).__module__}.{type(value).__qualname__}, not {_name(hint)}"


def _words(hint: Any) -> list[str]:
    """Return the texts that a type allows, at any depth; none if it is not made of such."""
    if get_origin(hint) is Literal:
        return [str(option) for option in get_args(hint)]
    return list(dict.fromkeys(word for option in get_args(hint) for word in _words(option)))


def _name(hint: Any) -> str:
    if get_origin(hint) in _UNIONS:
        return " or ".join(dict.fromkeys(map(_name, get_args(hint))))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint))) if len(get_args(hint)) > 1 else repr(get_args(hint)[0])
    if words := _words(hint):
        return f"a {get_origin(hint).__name__} of these: {', '.join(map(repr, words))}"
    if hint in {Any, NoneType}:
        return "None" if hint is NoneType else "a value"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else re.sub(r"\b[a-z_]\w*\.", "", str(hint))
