"""Client of llama.cpp's server, which runs in a separate process on the loopback interface."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kdtool_exporter_gguf._child import Child

__all__ = ["LlamaCpp", "RefusedError"]


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

    Raises:
        UsageError: llama.cpp cannot open the file.
    """

    def __init__(self, file: Path, *, context: int, threads: int | None) -> None:
        self._key = secrets.token_urlsafe(16)
        super().__init__("_serving", file, {"context": context, "threads": threads, "key": self._key})
        self._address = urlsplit(self.ready).netloc

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the response to a POST request.

        Raises:
            RefusedError: the server refused this request.
            PluginError: llama.cpp has ended.
        """
        connection = HTTPConnection(self._address)  # http.client uses no proxy
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, HTTPException) as error:
            raise self.end_error() from error
        finally:
            connection.close()
        if response.status != 200:
            problem = answer.get("error", {})
            raise RefusedError(problem.get("message", f"status {response.status}"), problem.get("type", ""))
        return answer
