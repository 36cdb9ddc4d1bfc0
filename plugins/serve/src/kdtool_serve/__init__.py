"""Models of a run over HTTP and in the terminal: the commands `kdtool serve` and `kdtool generate`.

The server has the protocols of OpenAI and Ollama and llama.cpp's `/infill`. `create_app` and its `Limits` load when they
are first used, so that help imports no server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtool_serve.app import Limits, create_app


__all__ = ["Limits", "create_app"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("kdtool_serve.app"), name)
