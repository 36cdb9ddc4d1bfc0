"""Compare a teacher's signals with the request, at every call of `kdtool_signal`: also by a runtime of the teacher itself.

A wrong signal would fail later, in a loss or an evaluator that is not to blame.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from kdtool._contract.data import Batch
from kdtool._contract.signals import ChosenTokens, LazyLogits, Signal, SparseTokens
from kdtool._errors import PluginError

__all__ = ["check_rows", "checking_signals"]


def checking_signals(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a teacher's `kdtool_signal` that checks what it returns; rows only of its first signal of each kind.

    Counting labels makes a GPU wait. Errors name the teacher's class, since a runtime may call it outside of hooks.
    """
    signature, compared = inspect.signature(method), WeakKeyDictionary[Any, set[str]]()

    @wraps(method)
    def kdtool_signal(self: Any, *args: Any, **kwargs: Any) -> Any:
        signal = method(self, *args, **kwargs)
        batch = signature.bind(self, *args, **kwargs).arguments.get("batch")
        try:
            _check_classes(signal)
            kinds, checked = _kinds(signal), compared.setdefault(self, set())
            if batch is not None and not kinds <= checked:
                check_rows(batch, signal)
                checked |= kinds
        except PluginError as error:
            raise PluginError(f"{type(self).__qualname__}: {error}") from None
        return signal

    return kdtool_signal


def check_rows(batch: Batch, signal: Signal) -> None:
    """Compare the shapes of a signal with its batch.

    Raises:
        PluginError: it does not have a row for each label, or the head does not fit the states.
    """
    parts = {f"hidden[{layer}]": states for layer, states in signal.hidden.items()}
    parts |= {} if signal.lazy is None else {"lazy (the logits)": signal.lazy.hidden}
    parts |= {f"{name}.ids": part.ids for name in ("sparse", "chosen") if (part := getattr(signal, name)) is not None}
    for name, tensor in parts.items():
        if len(tensor) != (labels := int((batch.labels != -100).sum())):
            message = f"its signal has {len(tensor)} rows in {name}, but the batch has {labels} labels"
            raise PluginError(f"{message}; return one row for each label that is not -100")
    if signal.lazy is not None:
        width, wanted = signal.lazy.hidden.shape[-1], signal.lazy.head.weight.shape[-1]
        if width != wanted:
            raise PluginError(
                f"its signal has width {width} in lazy.hidden, but its head multiplies width {wanted}; return one row of H "
                "numbers for each label and a weight [V, H], or build the signal by kdtool.Signal.of_logits"
            )


def _kinds(signal: Signal) -> set[str]:
    """Return the names of the signal's parts that have a row for each label."""
    return {name for name in ("hidden", "lazy", "sparse", "chosen") if getattr(signal, name)}


def _check_classes(signal: object) -> None:
    if not isinstance(signal, Signal):
        found = "None" if signal is None else f"an object of class {type(signal).__name__}"
        raise PluginError(f"kdtool_signal must return Signal, but returned {found}")
    for name, cls in (("lazy", LazyLogits), ("sparse", SparseTokens), ("chosen", ChosenTokens)):
        part = getattr(signal, name)
        if part is not None and not isinstance(part, cls):
            found = f"of class {type(part).__name__}"
            raise PluginError(f"kdtool_signal returned a wrong value: the answer.{name} is {found}, not {cls.__name__}")
