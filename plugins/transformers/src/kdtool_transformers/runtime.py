"""An opened model for measurement: log-likelihoods of texts, and answers to prompts.

Evaluators, servers and teachers' text answers use it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, islice
from threading import Lock
from typing import Any

import kdtool
import torch
from kdtool_torch import eval_mode, score_texts, widen

from kdtool_transformers.attention import CausalModel, causal_of
from kdtool_transformers.generation import answer_requests, capacity_of, generate
from kdtool_transformers.prompts import Infilling
from kdtool_transformers.streaming.answer import PROPOSED
from kdtool_transformers.streaming.cache import RowCache, new_cache
from kdtool_transformers.streaming.streamer import LONG_CHUNK, STREAMS, Streamer

_LONGEST_WINDOW = 2048
_TOGETHER = 256
"""Requests that are handed over at once: which of them share a pass does not depend on how fast answers are taken."""


class TransformersRuntime(kdtool.Runtime):
    """Scores and answers by a `CausalModel`. `context` is the greatest number of tokens it reads; 0: not known.

    `compute` is the dtype of autocast, None to compute in the weights' own. `window` tokens of context at most (2048 or
    the model's context): longer texts are cut into windows that advance by half, and each token is scored once, in the
    first window that holds it, with at least half a window of context before it. `unload` releases the model
    where it was opened. It infills if the tokenizer has FIM tokens. Answers that are streamed share each forward pass.
    """

    model: CausalModel | None
    streams = STREAMS
    proposed = PROPOSED
    """Tokens that prompt lookup proposes at once for a streamed answer; 0 switches it off."""

    def __init__(
        self,
        model: CausalModel,
        compute: torch.dtype | None = None,
        window: int = _LONGEST_WINDOW,
        unload: Callable[[], None] | None = None,
    ) -> None:
        self.model = model
        self.compute = compute
        self._unload = unload
        self.context = model.facts.context
        self.window = min(window, self.context or window)
        self.abilities = self.abilities | {"echo"}
        if model.tokenizer.infilling is not None:
            self.abilities = self.abilities | {"infill"}
        self._streamer: Streamer | None = None
        self._lock = Lock()

    @property
    def infilling(self) -> Infilling | None:
        """The FIM tokens of the vocabulary; None if it has none."""
        return self._require_open().tokenizer.infilling

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Yield each text's log-likelihood, in order; the first token is predicted from the `scoring_context`."""
        model = self._require_open()
        yield from score_texts(model, texts, self.window, model.tokenizer.encode_batch, self._autocast)

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Answer requests by greedy decoding (temperature 0) or sampling, in the order in which they end.

        One that ends makes room for the next. One whose prompt leaves no room in the context is "refused".
        """
        model = self._require_open()
        capacity = capacity_of(model.model, model.head.weight.device)
        if not isinstance(new_cache(causal_of(model.model).config), RowCache):  # rows that cannot join and leave
            yield from answer_requests(requests, model.tokenizer, self.context, self._generate, capacity)
            return
        waiting = iter(requests)
        while group := list(islice(waiting, _TOGETHER)):
            yield from Streamer(model, self.context, self.passes, 0, LONG_CHUNK).answer(group, capacity)

    def stream(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        """Yield an answer while it is generated, together with those of other threads."""
        with self._lock:
            if self._streamer is None:
                with self.passes() as model:
                    self._streamer = Streamer(model, self.context, self.passes, self.proposed)
            streamer = self._streamer
        yield from streamer.stream(request)

    @contextmanager
    def passes(self) -> Iterator[CausalModel]:
        """Yield the model for forward passes like those of its answers: without dropout and gradients."""
        model = self._require_open()
        with eval_mode(model.model), self._autocast():
            yield model

    def memory(self) -> int:
        """Return the bytes of weights and buffers, and of keys and values of texts that are streamed."""
        model = self._require_open().model
        weights: int = sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))
        return weights + (self._streamer.memory() if self._streamer else 0)

    def count(self, text: str) -> int:
        """Return how many tokens a text is."""
        return len(self._require_open().tokenizer.encode(text))

    def close(self) -> None:
        """End all streamed answers, and release the model."""
        with self._lock:
            streamer, self._streamer, self.model = self._streamer, None, None
        if streamer is not None:
            streamer.close()

    def unload(self) -> None:
        """Release the model, here and where it was opened."""
        self.close()
        if self._unload is not None:
            self._unload()
        gc.collect()

    def _require_open(self) -> CausalModel:
        if self.model is None:
            raise kdtool.UsageError("this runtime is closed")
        stored = self.model.head.weight.dtype
        if self.compute not in (None, stored) and stored in (torch.bfloat16, torch.float16):
            widen(self.model.model)  # float32 represents any stored value; autocast rounds to the computing dtype
        return self.model

    def _generate(self, requests: list[kdtool.Request]) -> list[kdtool.TextAnswer]:
        model = self._require_open()
        with self._autocast():
            return generate(model.model, model.tokenizer, model.head.weight.device, requests)

    def _autocast(self) -> AbstractContextManager[Any]:
        weight = self._require_open().head.weight
        if self.compute is None or self.compute == weight.dtype:
            return nullcontext()
        return torch.autocast(weight.device.type, self.compute)
