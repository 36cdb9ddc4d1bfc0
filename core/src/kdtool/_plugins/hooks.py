"""Calling hooks: every call goes through pluggy, to one component at a time, with all wrappers around it; and who failed.

`ComponentHooks` registers the components of one scope (one phase of one arm, with those that the run shares) in its own
pluggy manager. An addressed call leaves all other implementations out (`subset_hook_caller`); a call of all
components is a series of addressed ones, so that answers go by name and one failing tracker does not stop the others.
Components are registered last to first: pluggy calls what registered last first, so the recipe's order is the calling order.

A guard around each method is the innermost layer of a call: errors name the component, returned values are checked, and
wrappers of other components see its errors and results. The innermost guard wins; the engine blames a component for its
result, if that fails later. `translate_errors` turns errors of plugins, the system and libraries into errors for the user,
so that a lack of memory or disk is the same wherever it happens.
"""

from __future__ import annotations

import errno
import inspect
import os
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import KW_ONLY, dataclass, field
from functools import partial, wraps
from pathlib import Path
from types import MethodType
from typing import Any, TypeVar, cast

import pluggy

from kdtool._contract.component import Component, hookimpl
from kdtool._contract.run_info import Named, Owner
from kdtool._errors import (
    KdtoolError,
    MemoryExceededError,
    PluginError,
    StorageError,
    UsageError,
    cause_of,
    is_interrupt,
)
from kdtool._plugins.distributions import points
from kdtool._plugins.events import Events
from kdtool._plugins.hook_specs import SPECS, Spec, implements, is_wrapper
from kdtool._text.names import did_you_mean

K = TypeVar("K")


@dataclass(eq=False, repr=False)
class ComponentHooks:
    """The hooks of the components of one scope; what components see of it is `kdtool.Hooks`.

    `components` are in the order of the recipe. A component that fails in a tolerant hook is muted, with a line by
    `complain`, unless it is `required`; `muted` is shared by all scopes of a run. Calls of tolerant hooks are `events`;
    without these, components are called at once. Hooks of a phase call trackers in threads by those of the `whole` run.
    """

    components: Mapping[str, Component]
    owners: Mapping[str, Owner] = field(default_factory=dict)
    _: KW_ONLY
    required: frozenset[str] = frozenset()
    complain: Callable[[str], None] = print
    muted: set[str] = field(default_factory=set)
    events: Events | None = None
    whole: ComponentHooks | None = None

    def __post_init__(self) -> None:
        unnamed = {name: Owner(name, component.kind, name, "", "") for name, component in self.components.items()}
        self.owners = {**unnamed, **self.owners}
        self._addressed: dict[str, _Addressed] = {}
        self._replaced: dict[tuple[str, str], Callable[..., Any]] = {}
        self._manager = _make_manager()
        for name, component in reversed([*self.components.items()]):
            with using(self.owners[name], "its registration"):
                self._manager.register(GuardedHooks(component, self.owners[name], self.muted), name)

    def __getattr__(self, hook: str) -> Callable[..., Any]:
        """Return the call of a hook of all components: see `kdtool.Hooks`."""
        if hook not in SPECS:
            raise AttributeError(f"{hook} is not a hook")
        return partial(self._call_all, SPECS[hook])

    def component(self, name: str, kind: type[K]) -> K:
        """Return one component, whose hooks are called through pluggy: see `kdtool.Hooks.component`."""
        if isinstance(self.components.get(name), kind):
            return cast("K", self._of(name))
        names = [other for other, component in self.components.items() if isinstance(component, kind)]
        wanted = getattr(kind, "kind", "") or "component"
        problem = f"{owner} is not a {wanted}" if (owner := self.owner(name)) else f"no {wanted} is called {name!r}"
        raise UsageError(f"{problem}; {did_you_mean(name, names, what='there are') or f'this recipe has no {wanted}'}")

    def implementing(self, hook: str) -> tuple[str, ...]:
        """Return the names of the components that implement a hook, in the order in which they are called."""
        registered = reversed(getattr(self._manager.hook, hook).get_hookimpls())
        return tuple(each.plugin_name for each in registered if not each.wrapper)

    def bound(self, hook: str) -> dict[str, Callable[..., Any]]:
        """Return each component's hook for hot loops: without pluggy, if no component wraps the hook."""
        spec, registered = SPECS[hook], getattr(self._manager.hook, hook).get_hookimpls()
        through_pluggy = spec.calling.tolerant or any(each.wrapper for each in registered)
        return {
            name: getattr(self._of(name), hook)
            if through_pluggy or (name, hook) in self._replaced
            else blame_errors(getattr(self.components[name], hook), self.owners[name], spec)
            for name in self.implementing(hook)
        }

    def owner(self, name: str) -> Owner | None:
        """Return the plugin that provides the component of that name."""
        return self.owners.get(name)

    def replacing(self, hook: str, by: Mapping[str, Callable[..., Any]]) -> ComponentHooks:
        """Return the same hooks, except that `by[name](call, …)` stands for `call(…)`, the hook of that component."""
        hooks = copy(self)
        hooks._addressed = {}
        hooks._replaced = self._replaced | {(name, hook): other for name, other in by.items()}
        return hooks

    def _of(self, name: str) -> Any:
        return self._addressed.setdefault(name, _Addressed(self.components[name], partial(self._caller, name)))

    def _caller(self, name: str, hook: str) -> Callable[..., Any]:
        """Return the call of one component's hook."""
        spec, component = SPECS[hook], self.components[name]
        thread = self.events.threads.get(name) if self.events and spec.calling.tolerant else None
        if thread and self.whole:
            return cast("Callable[..., Any]", getattr(self.whole._of(name), hook))
        if not implements(type(component), hook):
            if spec.answers.must_answer:
                raise PluginError(f"{self.owner(name)} must implement {hook} for this recipe")
            return lambda *_, **__: None
        registered = getattr(self._manager.hook, hook).get_hookimpls()
        others = [each.plugin for each in registered if not each.wrapper and each.plugin_name != name]
        caller = self._manager.subset_hook_caller(hook, others)

        def call(*args: Any, **kwargs: Any) -> Any:
            if spec.calling.tolerant and name in self.muted:
                return None
            values = spec.values(args, kwargs)
            with self._tolerate_failure(name, spec):
                return caller(component=name, **values)

        if thread:
            return partial(thread.put, hook, call)
        return partial(self._replaced[name, hook], call) if (name, hook) in self._replaced else call

    @contextmanager
    def _tolerate_failure(self, name: str, spec: Spec) -> Iterator[None]:
        """Disable a component that fails in a tolerant hook, unless it is required, with a line for the user."""
        try:
            yield
        except Exception as error:
            owner = owner_of(error) or self.owners[name]
            if owner.name in self.required or not spec.calling.tolerant:
                raise
            self.muted.add(owner.name)
            self.complain(f"{owner} failed in {spec.name}: {cause_of(error)}; disabled for the rest of this run")

    def _call_all(self, spec: Spec, /, *args: Any, **kwargs: Any) -> Any:
        answers: dict[str, Any] = {}
        if self.events and spec.calling.tolerant:
            args, kwargs = (), self.events.record(spec.name, spec.values(args, kwargs))
        for name in self.implementing(spec.name):
            answer = getattr(self._of(name), spec.name)(*args, **kwargs)
            if answer is not None:
                if spec.calling.first:
                    return Named(name, answer)
                answers[name] = answer
        return None if spec.calling.first or spec.answers.is_none else answers


class _Addressed:
    """One component, as others reach it: its hooks go through pluggy, its attributes are its own."""

    def __init__(self, component: Component, caller: Callable[[str], Callable[..., Any]]) -> None:
        self._component = component
        self._caller = caller

    def __getattr__(self, name: str) -> Any:
        if name not in SPECS:
            return getattr(self._component, name)
        vars(self)[name] = self._caller(name)  # found without this method from now on
        return vars(self)[name]


def _make_manager() -> pluggy.PluginManager:
    """Return a pluggy manager of all hooks.

    Every call is of one component, so that a wrapper gets its one answer (`firstresult`). Wrappers may also take the
    argument `component`, its name.
    """
    manager = pluggy.PluginManager("kdtool")
    manager.add_hookspecs(_DECLARATIONS)
    for name in SPECS:
        spec = getattr(manager.hook, name).spec
        spec.argnames = (*spec.argnames, "component")
    return manager


_MARK = pluggy.HookspecMarker("kdtool")(firstresult=True)
_DECLARATIONS = type("Declarations", (), {name: _MARK(spec.declared) for name, spec in SPECS.items()})


class GuardedHooks:
    """A component's hooks and wrappers in the form in which pluggy registers them.

    Args:
        component: the component.
        owner: the plugin that provides it.
        muted: components whose wrappers are passed over.
    """

    def __init__(self, component: Component, owner: Owner, muted: set[str]) -> None:
        for name, spec in SPECS.items():
            function: Any = getattr(type(component), name, None)
            if is_wrapper(function):
                vars(self)[name] = MethodType(_guard_wrapper(function, owner, name, muted), component)
            elif implements(type(component), name):
                vars(self)[name] = MethodType(_guard(function, owner, spec), component)


def blame_errors(method: Callable[..., Any], owner: Owner, spec: Spec) -> Callable[..., Any]:
    """Return a component's hook for hot loops: errors name the component, returned values are not checked.

    Trainers compile it as one graph, which a context manager would break.
    """
    accepted = tuple(inspect.signature(method).parameters)

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            if accepted == spec.arguments:
                return method(*args, **kwargs)
            values = spec.values(args, kwargs)
            return method(*(values[name] for name in accepted))
        except BaseException as error:
            note_owner(error, owner, spec.name)
            raise

    return call


def _guard(function: Callable[..., Any], owner: Owner, spec: Spec) -> Callable[..., Any]:
    @wraps(function)
    def call(component: Component, *args: Any) -> Any:
        with blame(owner, spec.name):
            answer = spec.answers.check(function(component, *args))
        return _guard_generator(answer, owner, spec.name) if inspect.isgenerator(answer) else answer

    return call if hasattr(function, "kdtool_impl") else hookimpl(call)


def _guard_generator(generator: Iterator[Any], owner: Owner, hook: str) -> Iterator[Any]:
    with blame(owner, hook):
        yield from generator


def _guard_wrapper(wrapper: Callable[..., Any], owner: Owner, hook: str, muted: set[str]) -> Callable[..., Any]:
    @wraps(wrapper)
    def call(component: Component, *args: Any) -> Generator[None, Any, Any]:
        if owner.name in muted:
            return (yield)
        with blame(owner, f"its wrapper of {hook}"):
            return (yield from wrapper(component, *args))

    return call


@contextmanager
def blame(owner: Owner | None, hook: str) -> Iterator[None]:
    """Note on any exception from the block that `owner` raised it in `hook`, as `note_owner` does."""
    try:
        try:
            yield
        except SystemExit as error:
            raise PluginError(f"tried to end the process (exit code {error.code!r})") from error
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        note_owner(error, owner, hook)
        raise


def note_owner(error: BaseException, owner: Owner | None, hook: str) -> None:
    """Note on an exception that `owner` raised it in `hook`, unless it already names a component or is Ctrl-C."""
    if owner is not None and owner_of(error) is None and not is_interrupt(error):
        notes = [*getattr(error, "__notes__", ()), f"raised by {owner} in {hook}"]
        vars(error).update(__kdtool_owner__=owner, __notes__=notes)  # also if the class refuses to be changed


def owner_of(error: BaseException) -> Owner | None:
    """Return the component that raised `error`, if one did."""
    owner = getattr(error, "__kdtool_owner__", None)
    return owner if isinstance(owner, Owner) else None


_TORCH_SAYS = ("DefaultCPUAllocator: ", "CUDA out of memory", "MPS backend out of memory")


_FULL = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


_ABSENT = {errno.ENOENT, errno.ENOTDIR}


_REFUSED = {errno.EACCES, errno.EPERM, errno.EEXIST, errno.ELOOP, *_ABSENT}


def place_of(error: BaseException) -> str:
    """Return "file:line" of a local file that raised, "folder/file:line" of an installed plugin; "" if neither did."""
    plugins = {point.value.partition(":")[0].partition(".")[0] for point in points()} - {"kdtool"}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        package, file = str(frame.f_globals.get("__name__", "")).partition(".")[0], Path(frame.f_code.co_filename)
        if package.startswith("_kdtool_local_"):
            return f"{file.name}:{line}"
        if package in plugins:
            return f"{file.parent.name}/{file.name}:{line}"
    return ""


def describe(error: BaseException) -> str:
    """Return the message of an error for the user, with the component that raised it unless the message names it."""
    owner, text = owner_of(error), str(error)
    return f"{text}\n  in {owner}" if owner is not None and str(owner) not in text else text


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory was exceeded: Python's own error, or torch's on any device. Torch is not imported."""
    classes = {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(error).__mro__}
    if "builtins.MemoryError" in classes or "torch.OutOfMemoryError" in classes:
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _TORCH_SAYS)


@contextmanager
def using(owner: Owner, what: str) -> Iterator[None]:
    """Run code of a plugin outside of hooks: its class, its settings, its constructor.

    Raises:
        PluginError: it raised anything but a `KdtoolError` or a lack of memory.
    """
    with blame(owner, what):
        try:
            yield
        except KdtoolError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            location = place_of(error)
            raise PluginError(f"{owner} failed in {what}: {cause_of(error)}{location and f' ({location})'}") from error


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn a lack of memory or disk, or a path that is too long, into an error for the user.

    Raises:
        UsageError: a path is longer than the system allows.
        MemoryExceededError: there was not enough memory.
        StorageError: a disk was full or read-only, or kdtool may not write somewhere.
    """
    try:
        yield
    except KdtoolError:
        raise
    except Exception as error:
        if out_of_memory(error):
            who = owner_of(error) or "kdtool itself"
            first = (str(error).strip().splitlines() or ["MemoryError"])[0]
            remedy = "A smaller batch, shorter rows or a smaller model need less. Finished work is kept."
            raise MemoryExceededError(f"not enough memory in {who}: {first}\n  {remedy}") from error
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            start = str(error.filename or "a path")[:200]
            raise UsageError(f"{start}… is longer than this system allows; choose a shorter name or folder") from error
        if reason := _unwritable(error):
            file, what, remedy = getattr(error, "filename", None), "write", "make room"
            if getattr(error, "errno", None) in _ABSENT:  # which does not tell a file to read from one to write
                what, remedy = "read or write", "restore the file, create the folder above it,"
            kept = f"Finished stages are kept; {remedy} or choose another folder, then run the same command again"
            owner = owner_of(error)
            who = f" (in {owner})" if owner else ""
            raise StorageError(f"cannot {what}{f' {file}' if file else ''}: {reason}{who}. {kept}") from error
        raise


def _unwritable(error: Exception) -> str:
    """Return the system's words for a full disk, or for kdtool's own write that was refused; "" for other errors.

    Libraries that write weights report a full disk as their own errors, which contain these words.
    """
    if not isinstance(error, OSError):
        return next((words for words in map(os.strerror, _FULL) if words in str(error)), "")
    refused = error.errno in _REFUSED and owner_of(error) is None
    return error.strerror or str(error) if refused or error.errno in _FULL else ""
