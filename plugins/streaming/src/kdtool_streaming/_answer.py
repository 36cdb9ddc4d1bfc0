"""An answer that is being generated, for `_streamer` and `_speculative`: its state, and the pieces that it emits."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any, Literal

import kdtool
from kdtool_torch import Sampler
from kdtool_transformers import CausalModel, TransformersTokenizer, end_ids
from torch import Tensor

from kdtool_streaming._growing_text import GrowingText
from kdtool_streaming._lookup import PromptLookup

__all__ = ["StreamedAnswer"]


class StreamedAnswer:
    """A text that is generated: its state, and the queue of its pieces. `read` counts the tokens in its cache.

    The cache is its own until its prompt is read, then its batch's. The answer begins with the text `removed` from its
    prompt (see `_healing`), which is not shown; as long as it is not spelt, `removed` is the rest of it.
    """

    def __init__(
        self,
        model: CausalModel,
        request: kdtool.Request,
        prompt: list[int],
        limit: int,
        cache: Any,
        removed: bytes = b"",
    ) -> None:
        tokenizer = model.tokenizer
        self.prompt, self.cache, self.removed = prompt, cache, removed
        self._again = int(bool(removed))
        self.limit = limit + self._again
        self.ends = end_ids(tokenizer, request)
        self.sampler = Sampler.of(request, model.head.weight.device)
        self.text = GrowingText(tokenizer, request, prompt, len(removed.decode()))
        self.logprobs = None if request.logprobs is None else _Logprobs(tokenizer, request.logprobs)
        self.pieces: SimpleQueue[kdtool.TextPiece | BaseException] = SimpleQueue()
        self.lookup = PromptLookup()
        self.read = 0
        self.done = False

    @property
    def last(self) -> int:
        """The newest token."""
        return self.text.ids[-1]

    def accept(self, token: int, logits: Tensor) -> None:
        """Put the piece of a new token; `logits` [vocabulary] are those it was chosen by."""
        logprobs = () if self.logprobs is None or token in self.ends else (self.logprobs.of(token, logits),)
        ended = token in self.ends
        text = "" if ended else self.text.add(token)
        if ended or self.text.has_stopped() or len(self.text.ids) >= self.limit:
            rest, finish = self.text.finish(ended=ended)
            self.done = True
            self.put(text + rest, finish, logprobs)
        else:
            self.put(text, None, logprobs)

    def put(
        self, text: str, finish: Literal["stop", "length"] | None = None, logprobs: tuple[kdtool.TokenLogprob, ...] = ()
    ) -> None:
        tokens_in, tokens_out = len(self.prompt) + self._again, max(0, len(self.text.ids) - self._again)
        self.pieces.put(kdtool.TextPiece(text, tokens_in, tokens_out, finish, logprobs=logprobs))


class _Logprobs:
    """Log-probabilities of tokens, with those of the `count` likeliest."""

    def __init__(self, tokenizer: TransformersTokenizer, count: int) -> None:
        self._tokenizer, self._count = tokenizer, count
        self._name(tokenizer.end_of_text)  # refuses a tokenizer whose tokens cannot be written one by one

    def of(self, token: int, logits: Tensor) -> kdtool.TokenLogprob:
        """Return a token's, from its logits [vocabulary]."""
        values = logits.float().log_softmax(-1)
        best = values.topk(min(max(0, self._count), len(values)))
        top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return kdtool.TokenLogprob(
            self._name(token), float(values[token]), tuple((self._name(each), value) for each, value in top)
        )

    def _name(self, token: int) -> str:
        # Decoded after another token, since some tokenizers drop the space of the first.
        return self._tokenizer.pieces([token, token])[1].decode("utf-8", "replace")
