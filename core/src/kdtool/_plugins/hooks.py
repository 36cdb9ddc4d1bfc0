"""How hooks are declared and called.

A hook is declared once, as a method of its kind's base class. `Hooks` lists it with a style: `every`, `one`, `tell` or
`notify`. The style also decides what a failure does, however the hook is called: it reaches the caller, except from a hook
in the style `notify`.

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

from kdtool._errors import cause_of
from kdtool._plugins.owner import Owner, blame
from kdtool._plugins.return_types import Answers

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
    """Declare a hook that all components are called by and that returns nothing; an exception reaches the caller."""
    return Spec(declared, "tell")


def notify(declared: Callable[Concatenate[Any, P], None]) -> Spec[P, None, None]:
    """Declare a hook that notifies all components; one that raises is disabled for the rest of the run.

    No exception reaches the caller, unless the component is `required`.
    """
    return Spec(declared, "notify")


@dataclass(eq=False)
class HooksBase:
    """The hooks of the components registered in one manager.

    Attributes:
        _owners: the plugin behind each component.
        _required: components whose failure in a `notify` hook stops the run.
        _trace: called with a line for each call of a hook.
        _complain: called with a line for each failure that does not stop the run.
        _muted: components that failed in a `notify` hook; shared by all hooks of a run.
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
        """Call the hook in its style; see `every`, `one`, `tell` and `notify`."""
        values = self._values(args, kwargs)
        answers: dict[str, Any] = {}
        for name, implementation in self._implementations():
            answer = self._ask(name, implementation, values)
            if answer is None:
                continue
            if self._spec.style == "one":
                return cast("T", Named(name, answer))
            answers[name] = answer
        return cast("T", answers if self._spec.style == "every" else None)

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
        """Return each component's plain callable, for loops that are hot or compiled: no blame, no tracing.

        Notifications stay tolerant: theirs are not plain.
        """
        bind = self._asker if self._spec.style == "notify" else self._plain
        return {name: bind(name, implementation) for name, implementation in self._implementations()}

    def names(self) -> tuple[str, ...]:
        """Return the names of the components that implement the hook, in recipe order."""
        return tuple(name for name, _ in self._implementations())

    def _named(self, name: str, *, needed: bool) -> Callable[..., Any]:
        for candidate, implementation in self._implementations():
            if candidate == name:
                return self._asker(name, implementation, needed)
        raise LookupError(f"{self._hooks.owner(name) or name} does not implement {self._spec.name}")

    def _implementations(self) -> list[tuple[str, pluggy.HookImpl]]:
        caller = getattr(self._hooks._manager.hook, self._spec.name)
        return [(found.plugin_name, found) for found in caller.get_hookimpls()]

    def _values(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        values = {**dict(zip(self._spec.arguments, args, strict=False)), **kwargs}
        if len(args) > len(self._spec.arguments) or set(values) != set(self._spec.arguments):
            raise TypeError(f"{self._spec.name} takes exactly ({', '.join(self._spec.arguments)})")
        return values

    def _asker(self, name: str, implementation: pluggy.HookImpl, needed: bool = False) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._ask(name, implementation, self._values(args, kwargs), needed)

    def _ask(self, name: str, implementation: pluggy.HookImpl, values: Mapping[str, Any], needed: bool = False) -> Any:
        """Call one component's hook, in whichever way it was reached."""
        if self._spec.style != "notify" or name in self._hooks._required:
            return self._answer(name, implementation, values, needed)
        if name in self._hooks._muted:
            return None
        try:
            return self._answer(name, implementation, values)
        except Exception as error:
            self._hooks._muted.add(name)
            who = self._hooks.owner(name) or name
            failure = f"{who} failed in {self._spec.name}: {cause_of(error)}"
            self._hooks._complain(f"{failure}; disabled for the rest of this run")
            return None

    def _answer(
        self, name: str, implementation: pluggy.HookImpl, values: Mapping[str, Any], needed: bool = False
    ) -> Any:
        owner = self._hooks.owner(name)
        if self._hooks._trace is not None:
            self._hooks._trace(f"{self._spec.name} -> {name}")
        with blame(owner, self._spec.name):
            answer = implementation.function(*(values[argument] for argument in implementation.argnames))
            answer = self._spec.answers.checked(answer, needed=needed)
        if inspect.isgenerator(answer):
            return _blamed_generator(answer, owner, self._spec.name)
        return answer

    def _plain(self, name: str, implementation: pluggy.HookImpl) -> Callable[P, R]:
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
