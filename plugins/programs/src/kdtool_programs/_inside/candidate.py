"""The process in which the program under test runs. It never has the tests, and decides nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from operator import setitem
from types import ModuleType
from typing import Any

from kdtool_programs._inside.frames import read_frame
from kdtool_programs._inside.peer import Peer, digest

__all__ = ["answer"]

NAME = "candidate"


def answer(confine: Callable[[], None], reading: int, writing: int) -> None:
    """Read the program from standard input, load it when asked to, and answer calls of its functions."""
    source = read_frame(0) or b""
    confine()
    os.write(writing, b"!")
    module = ModuleType(NAME)
    sys.modules[NAME] = module

    def load(names: list[str]) -> list[Any]:
        text = source.decode("utf-8", "surrogatepass")  # of bytes a line such as `coding: latin-1` would be believed
        exec(compile(text, "<candidate>", "exec", dont_inherit=True), vars(module))  # noqa: S102 (this process is for that)
        return [_look_up(module, name) for name in names]

    actions: dict[str, Callable[..., Any]] = {
        "load": load,
        "call": lambda function, *arguments, **named: function(*arguments, **named),
        "iterate": iter,
        "advance": lambda iterator: [value for value in [next(iterator, _END)] if value is not _END],
        "length": len,
        "item": lambda value, key: value[key],
        "digest": digest,
        "attribute": getattr,
        "set": setattr,
        "set item": setitem,
        "text": str,
        "shown": repr,
    }
    Peer(reading, writing, actions, keeps_large=True).serve()


_END = object()


def _look_up(module: ModuleType, name: str) -> Any:
    if name not in vars(module):
        raise NameError(f"name {name!r} is not defined")
    return vars(module)[name]
