"""Tokens counted by the service, which is free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from anyio.from_thread import start_blocking_portal

from kdtool_teacher_claude._client import Client
from kdtool_teacher_claude._config import ClaudeConfig
from kdtool_teacher_claude._requests import Asked

__all__ = ["counting"]


@contextmanager
def counting(config: ClaudeConfig, *, offline: bool) -> Iterator[Callable[[Asked], int]]:
    """Give a function that counts the input tokens of a request."""
    with start_blocking_portal() as portal:
        client = portal.call(lambda: Client(config, offline=offline))
        try:
            yield lambda asked: portal.call(client.count, asked.body)
        finally:
            portal.call(client.close)
