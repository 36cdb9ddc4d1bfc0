"""How hooks are declared and called.

A hook is declared once, as a method of its kind's base class. `Hooks` lists it with a style: `every`, `one` or `tell`.
`HooksBase` binds that list to the components registered in one pluggy manager. Answers are paired with component names
by a loop over pluggy's `get_hookimpls`, which costs about a microsecond a component, keeps the order of registration, and
tells who answered.

Whoever raises, or answers what the hook does not allow (`_answers`), is named: the exception gets a note and, for the
command line, an `Owner`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, cast, overload

import pluggy

from kdtool._answers import Answers
from kdtool._owner import Owner, blame

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
N = TypeVar("N")


class Named(NamedTuple, Generic[N]):
    """An answer and the name of the component that gave it."""

    name: str
    value: N


class Spec(Generic[P, R, T]):
    """A hook's declaration with its calling style; found on a bound `Hooks` it is a `Call`."""

    def __init__(self, declared: Callable[..., Any], style: str) -> None:
        self.declared = declared
        self.style = style
        self.name = declared.__name__
        self.arguments = tuple(inspect.signature(declared).parameters)[1:]
        self.answers = Answers(declared)

    def __set_name__(self, owner: type, name: str) -> None:
        if name != self.name:
            raise TypeError(f"hook {self.name} is listed under another name: {name}")

    @overload
    def __get__(self, instance: None, owner: type) -> Spec[P, R, T]: ...
    @overload
    def __get__(self, instance: HooksBase, owner: type) -> Call[P, R, T]: ...
    def __get__(self, instance: HooksBase | None, owner: type) -> Spec[P, R, T] | Call[P, R, T]:
        return self if instance is None else Call(self, instance)


def every(declared: Callable[Concatenate[Any, P], R | None]) -> Spec[P, R, dict[str, R]]:
    """Declare a hook that all components are asked; answers come by name, in recipe order, None left out."""
    return Spec(declared, "every")


def one(declared: Callable[Concatenate[Any, P], R | None]) -> Spec[P, R, Named[R] | None]:
    """Declare a hook whose first answer that is not None counts."""
    return Spec(declared, "one")


def tell(declared: Callable[Concatenate[Any, P], None]) -> Spec[P, None, None]:
    """Declare a hook that informs all components. One that raises does not keep it from the others."""
    return Spec(declared, "tell")


@dataclass(eq=False)
class HooksBase:
    """The hooks of the components registered in one manager.

    `owners` says who stands behind a component, `required` whose failing in a `tell` hook stops the run. `trace` is told of
    every call, `complain` of failures that do not stop the run.
    """

    _manager: pluggy.PluginManager
    _owners: Mapping[str, Owner]
    _required: frozenset[str] = frozenset()
    _trace: Callable[[str], None] | None = None
    _complain: Callable[[str], None] = print
    _muted: set[str] = field(default_factory=set)

    def owner(self, name: str) -> Owner | None:
        """Return who stands behind the component of that name."""
        return self._owners.get(name)


class Call(Generic[P, R, T]):
    """A hook, ready to be called on the components of one scope."""

    def __init__(self, spec: Spec[P, R, T], hooks: HooksBase) -> None:
        self._spec = spec
        self._hooks = hooks

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the hook in its style; see `every`, `one` and `tell`."""
        values = self._values(args, kwargs)
        if self._spec.style == "tell":
            return cast("T", self._tell(values))
        answers: dict[str, Any] = {}
        for name, implementation in self._implementations():
            answer = self._ask(name, implementation, values)
            if answer is None:
                continue
            if self._spec.style == "one":
                return cast("T", Named(name, answer))
            answers[name] = answer
        return cast("T", None if self._spec.style == "one" else answers)

    def of(self, name: str) -> Callable[P, R]:
        """Return the hook of one named component, which must answer: for a hook that may return None, see `maybe`.

        Raises:
            LookupError: there is no such component, or it does not implement the hook.
        """
        return cast("Callable[P, R]", self._named(name, needed=True))

    def maybe(self, name: str) -> Callable[P, R | None]:
        """Return the hook of one named component, which may answer None."""
        return cast("Callable[P, R | None]", self._named(name, needed=False))

    def bound(self) -> dict[str, Callable[P, R]]:
        """Return each component's plain callable, for loops that are hot or compiled: no blame, no tracing."""
        return {name: self._plain(implementation) for name, implementation in self._implementations()}

    def names(self) -> tuple[str, ...]:
        """Return the names of the components that implement the hook, in recipe order."""
        return tuple(name for name, _ in self._implementations())

    def _named(self, name: str, *, needed: bool) -> Callable[..., Any]:
        for candidate, implementation in self._implementations():
            if candidate == name:
                return lambda *args, **kwargs: self._ask(name, implementation, self._values(args, kwargs), needed)
        raise LookupError(f"{self._hooks.owner(name) or name} does not implement {self._spec.name}")

    def _implementations(self) -> list[tuple[str, pluggy.HookImpl]]:
        caller = getattr(self._hooks._manager.hook, self._spec.name)
        return [(found.plugin_name, found) for found in caller.get_hookimpls()]

    def _values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        values = {**dict(zip(self._spec.arguments, args, strict=False)), **kwargs}
        if len(args) > len(self._spec.arguments) or set(values) != set(self._spec.arguments):
            raise TypeError(f"{self._spec.name} takes exactly ({', '.join(self._spec.arguments)})")
        return values

    def _ask(self, name: str, implementation: pluggy.HookImpl, values: Mapping[str, Any], needed: bool = False) -> Any:
        owner = self._hooks.owner(name)
        if self._hooks._trace is not None:
            self._hooks._trace(f"{self._spec.name} -> {name}")
        with blame(owner, self._spec.name):
            answer = implementation.function(*(values[argument] for argument in implementation.argnames))
            answer = self._spec.answers.checked(answer, needed=needed)
        if inspect.isgenerator(answer):
            return _blamed_generator(answer, owner, self._spec.name)
        return answer

    def _tell(self, values: Mapping[str, Any]) -> None:
        for name, implementation in self._implementations():
            if name in self._hooks._muted:
                continue
            try:
                self._ask(name, implementation, values)
            except Exception as error:
                if name in self._hooks._required:
                    raise
                self._hooks._muted.add(name)
                who = self._hooks.owner(name) or name
                self._hooks._complain(f"{who} failed in {self._spec.name} and is not told anything more: {error!r}")

    def _plain(self, implementation: pluggy.HookImpl) -> Callable[P, R]:
        function, wanted = implementation.function, implementation.argnames
        if tuple(wanted) == self._spec.arguments:
            return cast("Callable[P, R]", function)

        @wraps(function)
        def fewer(*args: Any, **kwargs: Any) -> Any:
            values = self._values(args, kwargs)
            return function(*(values[argument] for argument in wanted))

        return cast("Callable[P, R]", fewer)


def _blamed_generator(generator: Iterator[Any], owner: Owner | None, hook: str) -> Iterator[Any]:
    with blame(owner, hook):
        yield from generator
