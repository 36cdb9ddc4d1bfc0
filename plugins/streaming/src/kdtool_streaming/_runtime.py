"""`StreamingRuntime`: a model of transformers that yields its answers while they are generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Self

import kdtool
import torch
from kdtool_transformers import CausalModel, TransformersRuntime

from kdtool_streaming._lookup import PROPOSED
from kdtool_streaming._streamer import STREAMS, Streamer

__all__ = ["StreamingRuntime"]


class StreamingRuntime(TransformersRuntime):
    """Scores and answers as a `TransformersRuntime` does; streamed answers share each forward pass."""

    streams = STREAMS
    proposed = PROPOSED
    """Tokens that prompt lookup proposes at once; 0 switches it off."""

    def __init__(
        self,
        model: CausalModel,
        compute: torch.dtype | None = None,
        window: int = 2048,
        unload: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(model, compute, window, unload)
        self._streamer: Streamer | None = None
        self._lock = Lock()

    @classmethod
    def of(cls, runtime: TransformersRuntime) -> Self:
        """Return a runtime that streams the answers of an opened one, and is closed instead of it."""
        with runtime.passes() as model:
            return cls(model, runtime.compute, runtime.window, runtime.unload)

    def stream(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        """Yield an answer while it is generated, together with those of other threads."""
        with self._lock:
            if self._streamer is None:
                with self.passes() as model:
                    self._streamer = Streamer(model, self.context, self.passes, self.proposed)
            streamer = self._streamer
        yield from streamer.stream(request)

    def memory(self) -> int:
        """Return the bytes of weights and buffers, and of keys and values of texts that are streamed."""
        return super().memory() + (self._streamer.memory() if self._streamer else 0)

    def close(self) -> None:
        """End all streamed answers, and release the model."""
        with self._lock:
            streamer, self._streamer, self.model = self._streamer, None, None
        if streamer is not None:
            streamer.close()
