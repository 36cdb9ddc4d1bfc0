"""Answers that are yielded while they are generated: by continuous batching, or by speculative decoding.

- `StreamedModels` are the models of a run, opened for streaming, and on demand with a draft
- `StreamingRuntime` generates several answers together, by a `Streamer`
- `SpeculativeRuntime` verifies the tokens that a draft proposes
- `end_naturally` ends an answer when its text repeats itself, or the function that it continues ends
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from threading import Lock
from typing import Self

import kdtool
import torch

from kdtool_transformers.attention import CausalModel
from kdtool_transformers.runtime import TransformersRuntime
from kdtool_transformers.streaming.answer import PROPOSED
from kdtool_transformers.streaming.natural_end import end_naturally
from kdtool_transformers.streaming.speculative import Speculation, SpeculativeRuntime
from kdtool_transformers.streaming.streamer import STREAMS, Streamer

__all__ = ["Speculation", "SpeculativeRuntime", "StreamedModels", "StreamingRuntime", "end_naturally"]


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
        self.abilities = self.abilities | {"echo"}
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


class StreamedModels(kdtool.Models):
    """The models of a run; those of transformers stream their answers, as others do if their plugins can.

    Those `drafted`, except the `draft` itself, are each opened together with the draft. `say` gets a line for each of these
    that computes in 16 bits, since its drafted answers may differ from its own.

    Raises:
        UsageError: no model has the draft's name.
    """

    def __init__(
        self,
        models: kdtool.Models,
        draft: str | None = None,
        drafted: Collection[str] = (),
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.subjects, self.results = models.subjects, models.results
        self._models, self._draft, self._drafted = models, draft, {*drafted} - {draft}
        self._say = say
        if draft is not None and draft not in self.subjects:
            models.open(draft)  # its error lists the names

    def open(self, name: str) -> kdtool.Runtime:
        """Open a model; see `kdtool.Models.open`.

        Raises:
            UsageError: as there; or the draft cannot draft for this model.
        """
        if self._draft is not None and name in self._drafted:
            return self._open_drafted(name, self._draft)
        opened = self._models.open(name)
        return StreamingRuntime.of(opened) if isinstance(opened, TransformersRuntime) else opened

    def _open_drafted(self, name: str, draft: str) -> kdtool.Runtime:
        with ExitStack() as opened:
            target, drafting = (opened.enter_context(self._models.open(each)) for each in (name, draft))
            runtime = SpeculativeRuntime(target, drafting)
            opened.pop_all()
        if runtime.dtype != "float32":
            self._say(
                f"{name} computes in {runtime.dtype}: with --draft, a greedy answer can differ from its own if two "
                "tokens are almost equally likely"
            )
        return runtime
