"""`kdtool serve`: models of a run over HTTP, by OpenAI's protocol and llama.cpp's `/infill`.

`engine` generates answers in threads behind a bounded queue, `pool` loads models and finds the one that is asked,
`parameters` are the requests, `forms` the responses, `answering` brings them together, `guard` checks every request,
`app` has the routes, `server` listens, and `command` is the click command.
"""

from __future__ import annotations

from kdtool_command_serve.app import Limits, create_app

__all__ = ["Limits", "create_app"]
