"""Tokens counted by the service, which is free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import kdtool
from anyio.from_thread import start_blocking_portal

from kdtool_teacher_claude._client import Client, DoubtfulError, LimitedError, RefusedError, UnreachedError
from kdtool_teacher_claude._config import ClaudeConfig
from kdtool_teacher_claude._requests import Asked

__all__ = ["counting"]


@contextmanager
def counting(config: ClaudeConfig, *, offline: bool) -> Iterator[Callable[[Asked], int]]:
    """Give a function that counts the input tokens of a request; it raises a ServiceError if that fails."""
    with start_blocking_portal() as portal:
        client = portal.call(lambda: Client(config, offline=offline))

        def count(asked: Asked) -> int:
            try:
                tokens: int = portal.call(client.count, asked.body)
            except (RefusedError, LimitedError, UnreachedError, DoubtfulError) as error:
                raise kdtool.ServiceError(
                    f"count_tokens: {error}; run again later, or let tokens be estimated: count_tokens: false"
                ) from None
            return tokens

        try:
            yield count
        finally:
            portal.call(client.close)
