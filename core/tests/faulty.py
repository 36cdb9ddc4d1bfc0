"""The toy's components as an installed package, each of which fails where the environment variable TOY_FAULT says so.

`Corpus.kdtool_examples=BudgetError` raises that class in that hook; `late BudgetError` raises it behind the first item of
what the hook gives; `hang` writes a file and waits; see `_ACTIONS` and `_ANSWERS` for the rest.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import kdtool

toy: Any = import_module(f"{__name__}.toy")


def fault(place: str) -> str:
    """Return what is to go wrong at `place`; "" for nothing."""
    wanted = dict(part.partition("=")[::2] for part in os.environ.get("TOY_FAULT", "").split(";"))
    return str(wanted.get(place, ""))


def hang() -> None:
    Path(os.environ["TOY_MARKER"]).with_suffix(".tmp").write_text("", encoding="utf-8")
    Path(os.environ["TOY_MARKER"]).with_suffix(".tmp").replace(os.environ["TOY_MARKER"])
    time.sleep(60)


def _raise(cls: Callable[..., BaseException], *args: Any) -> Callable[[], None]:
    def act() -> None:
        raise cls(*args)

    return act


_TORCH_CUDA = type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})
_CPU = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)
_ACTIONS: dict[str, Callable[[], None]] = {
    "hang": hang,
    "RecipeError": _raise(kdtool.RecipeError, [kdtool.Problem("key", "planned")]),
    "MemoryError": _raise(MemoryError),
    "torch on the CPU": _raise(RuntimeError, _CPU),
    "torch on CUDA": _raise(_TORCH_CUDA, "CUDA out of memory. Tried to allocate 2.00 GiB"),
    "full disk": _raise(OSError, errno.ENOSPC, "No space left on device"),
    "ValueError": _raise(ValueError, "planned"),
    "BrokenPipeError": _raise(BrokenPipeError, errno.EPIPE, "planned"),
    "sys.exit": lambda: sys.exit(0),
    "click.exit": _raise(click.exceptions.Exit, 0),
    "BaseException": _raise(BaseException, "planned"),
}


def act(what: str) -> None:
    if what in _ACTIONS:
        _ACTIONS[what]()
    else:
        raise getattr(kdtool, what)("planned")


def _half(answer: Iterator[Any], what: str) -> Iterator[Any]:
    yield next(answer)
    act(what)


def _replaced(**fields: Any) -> Callable[[Any], Any]:
    return lambda answer: dataclasses.replace(answer, **fields)


def _each(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda answer: (change(item) for item in answer)


_ANSWERS: dict[str, Callable[[Any], Any]] = {
    "None": lambda answer: None,
    "text": lambda answer: "text",
    "numbers": lambda answer: [1, 2],
    "same id": _each(_replaced(id="same")),
    "surrogate": _each(_replaced(body=kdtool.Text("\ud800"))),
    "too few": lambda answer: list(answer)[1:],
    "same key": _each(_replaced(key="same")),
    "short labels": _each(_replaced(labelled=[True])),
    "huge ids": _each(_replaced(input_ids=[2**40] * 16)),
    "short column": _each(_replaced(columns={"twice": [0]})),
    "other columns": lambda answer: (
        dataclasses.replace(row, columns={f"c{number}": [0] * 16}) for number, row in enumerate(answer)
    ),
    "fewer": lambda answer: answer - 1,
    "no history": _replaced(history=Path("nowhere.jsonl")),
    "nan": _each(_replaced(value=float("nan"))),
    "outside": _replaced(path=Path.cwd()),
    "items outside": _each(_replaced(items=Path.cwd() / "items.jsonl")),
    "other subject": _each(_replaced(subject="nobody")),
    "no file": lambda answer: Path("nowhere.html"),
    "no artifact": lambda answer: dataclasses.replace(answer, path=answer.path / "nothing"),
    "short values": lambda answer: {name: values[1:] for name, values in answer.items()},
    "other names": lambda answer: {f"other {name}": values for name, values in answer.items()},
    "numbers for text": lambda answer: {"hash": 3},
}


def _tripped(original: Any, place: str) -> Any:
    @wraps(original)
    def hook(*args: Any) -> Any:
        what = fault(place)
        if what.startswith("late "):
            return _half(original(*args), what.removeprefix("late "))
        if what in _ANSWERS:
            return _ANSWERS[what](original(*args))
        if what:
            act(what)
        return original(*args)

    return hook


def _tripping(cls: type) -> type:
    members = {
        name: _tripped(member, f"{cls.__name__}.{name}")
        for name, member in {**vars(kdtool.Component), **vars(cls)}.items()
        if name in {"kdtool_close", "kdtool_identity"} or (name in vars(cls) and name.startswith("kdtool_"))
    }
    return type(cls.__name__, (cls,), {**members, "__doc__": cls.__doc__, "__init__": _built(cls)})


def _built(cls: Any) -> Callable[..., None]:
    def __init__(self: Any, config: Any) -> None:  # noqa: N807
        if what := fault(f"{cls.__name__}.__init__"):
            act(what)
        cls.__init__(self, config)

    return __init__


class Filter(kdtool.Filter):
    """Keeps everything."""

    def kdtool_filter(self, run: Any, examples: Any) -> Any:
        return [None] * len(examples)


class Weighting(kdtool.Weighting):
    """Labels every character alike, and weighs all tokens alike."""

    columns = frozenset({"nothing"})

    def kdtool_annotate(self, example: Any) -> Any:
        return {"nothing": bytes(len(example.body.text))}

    def kdtool_token_weight(self, chunk: Any) -> Any:
        return None


class Transform(kdtool.Transform):
    """Changes nothing."""

    def kdtool_transform(self, student: Any, run: Any) -> Any:
        yield student


for _cls in (Filter, Weighting, Transform, *(found for found in vars(toy).values() if isinstance(found, type))):
    if issubclass(_cls, kdtool.Component):
        globals()[_cls.__name__] = _tripping(_cls)
toy.Unigram.save = _tripped(toy.Unigram.save, "Unigram.save")
if _what := fault("import"):
    act(_what)
