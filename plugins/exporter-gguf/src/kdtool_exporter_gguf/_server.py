"""Client of llama.cpp's server, which runs in a separate process on the loopback interface."""

from __future__ import annotations

import json
import secrets
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kdtool_exporter_gguf._child import Child

__all__ = ["LlamaCpp", "RefusedError"]

_EVENT = b"data: "


class RefusedError(Exception):
    """The server refused a request; the message and `kind` ("" for none) are the server's."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class LlamaCpp(Child):
    """A running server of one GGUF file.

    Args:
        file: the model.
        context: maximum tokens of a prompt with its answer; the model's own context is the upper limit.
        threads: number of CPU threads; None uses llama.cpp's default.
        slots: number of answers at once, each with the whole context.

    Raises:
        UsageError: llama.cpp cannot open the file.
    """

    def __init__(self, file: Path, *, context: int, threads: int | None, slots: int = 1) -> None:
        self._key = secrets.token_urlsafe(16)
        settings = {"context": context, "threads": threads, "slots": slots, "key": self._key}
        super().__init__("_serving", file, settings)
        self._address = urlsplit(self.ready).netloc

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the response to a POST request.

        Raises:
            RefusedError: the server refused this request.
            PluginError: llama.cpp has ended.
        """
        with self._send(path, body) as response:
            return json.loads(response.read())

    def events(self, path: str, body: Mapping[str, Any]) -> Generator[Any, None, None]:
        """Yield the events of a response while it is generated, up to the one with `stop`. Closing the iterator ends it.

        Raises:
            RefusedError: the server refused this request.
            PluginError: llama.cpp has ended.
        """
        with self._send(path, {**body, "stream": True}) as response:
            for line in response:
                if not line.startswith(_EVENT):
                    continue
                event = json.loads(line.removeprefix(_EVENT))
                if "error" in event:
                    raise _refusal(event["error"])
                yield event
                if event["stop"]:
                    return
            raise IncompleteRead(b"")

    @contextmanager
    def _send(self, path: str, body: Mapping[str, Any]) -> Iterator[HTTPResponse]:
        connection = HTTPConnection(self._address)  # http.client uses no proxy
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            with connection.getresponse() as response:
                if response.status != 200:
                    raise _refusal(json.loads(response.read()).get("error", {}), response.status)
                yield response
        except (OSError, HTTPException) as error:
            raise self.end_error() from error
        finally:
            connection.close()


def _refusal(problem: Mapping[str, Any], status: int = 200) -> RefusedError:
    return RefusedError(problem.get("message", f"status {status}"), problem.get("type", ""))
