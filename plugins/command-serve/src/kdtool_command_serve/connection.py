"""HTTP connections that slow and silent clients cannot block."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kdtool_command_serve.errors import RequestError

__all__ = ["Connection"]


class Connection(H11Protocol):
    """uvicorn's connection, limited where uvicorn has no limit.

    A request must arrive in time, and a client must read the response. At the greatest number of connections, a new one
    replaces the one that has been silent longest.
    """

    most: ClassVar[int] = 256
    """Connections at once."""
    request_seconds: ClassVar[float] = 30.0
    """Time for a whole request to arrive, headers and body."""
    unread_seconds: ClassVar[float] = 30.0
    """Time in which a client must read part of the sent data."""
    gone_seconds: ClassVar[float] = 0.1
    """Time between checks whether a client that sends no more is still connected."""

    _silent_since = 0.0
    _arriving: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _gone: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._silent_since = time.monotonic()
        self._expect_request()
        others = [each for each in self.connections if isinstance(each, Connection) and each is not self]
        others = [each for each in others if not each.transport.is_closing()]
        if len(others) >= self.most:
            silent = [each for each in others if not each._is_answering()]
            if silent:
                min(silent, key=lambda each: each._silent_since).transport.abort()
            else:
                self._turn_away()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._silent_since = time.monotonic()
        if self.conn.their_state in {h11.IDLE, h11.SEND_BODY}:
            self._expect_request()
        else:
            _stop(self._arriving)
            self._arriving = None

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection for the answer, in case the client closed only its own direction.

        A client that left looks the same, but replies to the interim response with a reset, which `_look` finds.
        """
        if not (self._is_answering() and not self.cycle.more_body and self.scope["http_version"] == "1.1"):
            return False
        self.cycle.keep_alive = False
        if not self.cycle.response_started:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._look()
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        _stop(self._unread)
        self._unread = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # `close` would wait until the client has read everything

    def connection_lost(self, exc: Exception | None) -> None:
        _stop(self._arriving)
        _stop(self._unread)
        _stop(self._gone)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def _expect_request(self) -> None:
        self._arriving = self._arriving or self.loop.call_later(self.request_seconds, self.transport.abort)

    def _look(self) -> None:
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self._gone = self.loop.call_later(self.gone_seconds, self._look)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _turn_away(self) -> None:
        error = RequestError("all connections are in use; try again soon", status=503, code="too_many_connections")
        body = json.dumps(error.body()).encode()
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Length: {len(body)}\r\nRetry-After: 1\r\n"
        self.transport.write(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + body)
        self.transport.close()


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
