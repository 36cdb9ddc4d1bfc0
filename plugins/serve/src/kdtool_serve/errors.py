"""Errors that clients see, in the form of OpenAI's API or Ollama's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import kdtool
from starlette.responses import JSONResponse

TOO_LONG = "context_length_exceeded"
"""The code of a prompt that leaves no room in the model's context."""


class RequestError(Exception):
    """A request that is refused: HTTP status, message, and the parameter that is wrong if there is one.

    `headers` are further ones of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers or {}

    def about(self, param: str) -> RequestError:
        """Return the error with another name of the parameter that is wrong, that which the client sent."""
        message = str(self).replace(f"{self.param}: ", f"{param}: ", 1)
        return RequestError(message, status=self.status, code=self.code, param=param)

    def body(self, *, ollama: bool = False) -> dict[str, Any]:
        """Return the JSON body, in Ollama's form or in OpenAI's."""
        if ollama:
            return {"error": str(self)}
        kind = "server_error" if self.status >= 500 else _KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "code": self.code, "param": self.param}}


_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_NO_MEMORY = ("out of memory", "defaultcpuallocator: ")
"""In the messages of torch, on accelerators and on processors."""
_FOLDERS = re.compile(r"(?<![\w:/.~])(?:[A-Za-z]:(?=[\\/]))?(?:[\\/][^\s\\/:'\"`]+)+[\\/]")
"""The folders of an absolute path, which clients need not know."""


def respond_with(error: RequestError, path: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the response to a request for `path`, in the form of the path's protocol."""
    return JSONResponse(error.body(ollama=path.startswith("/api/")), error.status, {**error.headers, **(headers or {})})


def as_request_error(error: BaseException) -> RequestError:
    """Return the error that a client gets for an exception from a model."""
    if isinstance(error, RequestError):
        return error
    text = _FOLDERS.sub("", str(error).strip()) or type(error).__name__
    if isinstance(error, kdtool.MemoryExceededError | MemoryError) or any(sign in text.lower() for sign in _NO_MEMORY):
        return RequestError(
            f"not enough memory: {text.splitlines()[0]}; ask a smaller model, or restart with --keep 1",
            status=503,
            code="insufficient_memory",
        )
    if isinstance(error, kdtool.UsageError):
        return RequestError(text)
    if isinstance(error, kdtool.KdtoolError):
        return RequestError(text, status=503, code="model_failed")
    return RequestError(f"the model failed: {text.splitlines()[0]}", status=500, code="model_failed")
