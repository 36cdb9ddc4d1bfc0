"""Errors that clients see, in the form of OpenAI's API."""

from __future__ import annotations

from typing import Any

import kdtool

__all__ = ["TOO_LONG", "BusyError", "RequestError", "as_request_error"]

TOO_LONG = "context_length_exceeded"
"""The code of a prompt that leaves no room in the model's context."""


class RequestError(Exception):
    """A request that is refused: HTTP status, message, and the parameter that is wrong if there is one."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    @property
    def headers(self) -> dict[str, str]:
        """Further headers of the response."""
        return {}

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        kind = "server_error" if self.status >= 500 else _KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "code": self.code, "param": self.param}}


class BusyError(RequestError):
    """All slots and places in the queue are taken; `seconds` is a guess of when one will be free."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message, status=429, code="queue_full")
        self.seconds = seconds

    @property
    def headers(self) -> dict[str, str]:
        """Retry-After."""
        return {"Retry-After": str(self.seconds)}


_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_NO_MEMORY = ("out of memory", "defaultcpuallocator: ")
"""In the messages of torch, on accelerators and on processors."""


def as_request_error(error: BaseException) -> RequestError:
    """Return the error that a client gets for an exception from a model."""
    if isinstance(error, RequestError):
        return error
    text = str(error).lower()
    if isinstance(error, kdtool.MemoryExceededError | MemoryError) or any(sign in text for sign in _NO_MEMORY):
        return RequestError(
            f"the memory does not suffice: {_first_line(error)}; ask a smaller model, or restart with --keep 1",
            status=503,
            code="insufficient_memory",
        )
    if isinstance(error, kdtool.UsageError):
        return RequestError(str(error))
    if isinstance(error, kdtool.KdtoolError):
        return RequestError(str(error), status=503, code="model_failed")
    return RequestError(f"the model failed: {_first_line(error)}", status=500, code="model_failed")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
