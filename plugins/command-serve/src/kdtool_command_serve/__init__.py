"""`kdtool serve`: models of a run over HTTP, by the protocols of OpenAI and Ollama and llama.cpp's `/infill`.

`engine` generates answers in threads behind a bounded queue, `pool` loads models and finds the one that is asked,
`parameters` are the requests, `forms` the responses, `ollama` both of Ollama, `answering` brings them together, `guard`
checks every request, `app` has the routes, `server` listens, and `command` is the click command.

`create_app` and its `Limits` load when they are first used, so that help imports no server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtool_command_serve.app import Limits, create_app

__all__ = ["Limits", "create_app"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("kdtool_command_serve.app"), name)
