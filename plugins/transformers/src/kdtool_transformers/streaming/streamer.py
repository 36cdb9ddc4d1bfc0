"""Continuous batching: texts that share each forward pass, and join and leave at any token.

`TransformersRuntime.stream` calls `Streamer.stream`, in as many threads as there are requests; its `answer` calls
`Streamer.answer` for many requests at once. Generation runs in a separate thread, which ends when nothing is left to
generate. It reads waiting prompts in chunks, and between the chunks generates a token for every text that is under way. The
batching of transformers draws all tokens from one seed, and changes the model's attention meanwhile.

Token healing generates the last token of the text before a cursor again, so that tokens may cross the cursor. An editor asks
in the midst of a word or of an indentation, where the tokens of the text so far are not those of the finished line. The
answer's first tokens are restricted to those that spell the removed text again.
"""

from __future__ import annotations

import inspect
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, islice, takewhile
from math import isfinite
from queue import SimpleQueue
from threading import Lock, Thread, current_thread
from typing import Any, NamedTuple

import kdtool
import torch
from kdtool_torch import choose, not_finite, require_finite
from torch import Tensor

from kdtool_transformers.attention import CausalModel, cache_name, causal_of
from kdtool_transformers.generation import Capacity, prompt_ids
from kdtool_transformers.streaming.answer import PROPOSED, StreamedAnswer, take_pieces
from kdtool_transformers.streaming.cache import RowCache, new_cache
from kdtool_transformers.tokenizer import TransformersTokenizer

STREAMS = 16
"""Texts that are generated together."""
_CHUNK = 256
"""Tokens of prompts that are read between two tokens of the texts under way."""
LONG_CHUNK = 2048
"""The same for answers that are taken whole."""
_PROMPTS_KEPT = 4
_TOKENS_KEPT = 8192
"""Maximum tokens of all kept prompts together."""
_LEAST_KEPT = 32
"""Minimum tokens that a prompt must share with an earlier one for their keys and values to be copied."""


class _Batch(NamedTuple):
    """Texts that share a cache, and each forward pass."""

    rows: list[StreamedAnswer]
    cache: Any

    def compact(self) -> None:
        """Remove the rows that are done: rows from the end take their positions."""
        alive = [number for number, row in enumerate(self.rows) if not row.done]
        if len(alive) == len(self.rows):
            return
        order = list(range(len(alive)))
        moving = [number for number in alive if number >= len(alive)]
        for hole, number in zip(sorted({*order} - {*alive}), moving, strict=True):
            order[hole] = number
        self.rows[:] = [self.rows[number] for number in order]
        if self.rows and isinstance(self.cache, RowCache):
            self.cache.keep(order, max(row.read for row in self.rows))


class Streamer:
    """Generates answers by a model that is not being trained.

    `context` is the greatest number of tokens that it reads (0: not known); `passes` returns the block to compute in.
    Prompt lookup proposes `proposed` tokens at once, for an answer that shares its passes with no other. `chunk` tokens of
    prompts are read between two tokens of the texts under way.
    """

    def __init__(
        self,
        model: CausalModel,
        context: int,
        passes: Callable[[], AbstractContextManager[Any]],
        proposed: int = PROPOSED,
        chunk: int | None = None,
    ) -> None:
        self._streams, self._chunk = STREAMS, chunk or _CHUNK
        self._model, self._context, self._passes, self._proposed = model, context, passes, proposed
        self._causal = causal_of(model.model)
        parameters = inspect.signature(self._causal.forward).parameters
        self._has_positions, self._cache_name = "position_ids" in parameters, cache_name(self._causal)
        self._keeps = "logits_to_keep" in parameters
        self._lock = Lock()
        self._waiting: list[StreamedAnswer] = []
        self._batches: list[_Batch] = []
        self._kept: list[tuple[list[int], RowCache]] = []
        self._thread: Thread | None = None
        self._running = self._closed = False

    def stream(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        """Yield an answer while it is generated; see `kdtool.Runtime.stream`."""
        removed = b""
        if request.heal and not request.turns and self._healing is not None:
            request, removed = self._healing.shorten(request)
        prompt = prompt_ids(self._model.tokenizer, request)
        row = self._row(request, prompt, removed)
        if row is None:
            yield kdtool.TextPiece("", len(prompt), 0, "refused")
            return
        self._start([row])
        try:
            yield from take_pieces(row.pieces)
        finally:
            row.done = True

    def answer(self, requests: Sequence[kdtool.Request], capacity: Capacity) -> Iterator[kdtool.TextAnswer]:
        """Yield the answers to requests as they end, as many at once as fit; then close.

        Those whose prompts leave no room are "refused".
        """
        whole: SimpleQueue[kdtool.TextAnswer | BaseException] = SimpleQueue()
        rows = []
        for request in requests:
            prompt = prompt_ids(self._model.tokenizer, request)
            row = self._row(request, prompt, whole=whole)
            if row is None:
                yield kdtool.TextAnswer(request.id, "", "refused", len(prompt), 0)
            else:
                rows.append(row)
        self._streams = capacity.texts(max((len(row.prompt) + row.limit for row in rows), default=0))
        self._start(rows)
        try:
            for _ in rows:
                answer = whole.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        finally:
            for row in rows:
                row.done = True
            self.close()  # its thread restores the model's mode

    def _row(
        self,
        request: kdtool.Request,
        prompt: list[int],
        removed: bytes = b"",
        whole: SimpleQueue[kdtool.TextAnswer | BaseException] | None = None,
    ) -> StreamedAnswer | None:
        """Return the state of an answer; None if its prompt leaves no room."""
        room = self._context - len(prompt) - bool(removed) if self._context else request.max_tokens
        if room < min(1, request.max_tokens):
            return None
        limit = min(request.max_tokens, room)
        return StreamedAnswer(self._model, request, prompt, limit, new_cache(self._causal.config), removed, whole)

    @cached_property
    def _healing(self) -> Healing | None:
        with suppress(kdtool.UsageError):  # a tokenizer whose tokens cannot be written one by one
            return Healing(self._model.tokenizer)
        return None

    def memory(self) -> int:
        """Return the bytes of keys and values in memory, for the caches that count them."""
        caches = [
            *(cache for _, cache in self._kept),
            *(batch.cache for batch in self._batches),
            *(row.cache for row in self._waiting),
        ]
        return sum({id(cache): cache.bytes for cache in caches if isinstance(cache, RowCache)}.values())

    def close(self) -> None:
        """End all answers with an error, and the thread."""
        with self._lock:
            self._closed, thread = True, self._thread
        if thread is not None and thread is not current_thread():
            thread.join()
        self._kept.clear()

    def _start(self, rows: list[StreamedAnswer]) -> None:
        with self._lock:
            self._require_open()
            self._waiting += rows
            if rows and not self._running:
                self._running = True
                self._thread = Thread(target=self._run, args=(self._thread,), name="kdtool-stream", daemon=True)
                self._thread.start()

    def _require_open(self) -> None:
        if self._closed:
            raise kdtool.UsageError("this runtime is closed")

    def _run(self, before: Thread | None) -> None:
        """Generate until nothing is left to do, once the thread `before` has ended. An error ends every answer with it."""
        if before is not None:
            before.join()  # it may still restore the model's mode
        try:
            with self._passes():
                while self._has_work():
                    self._step()
        except BaseException as error:  # nobody sees a thread's errors: the readers of the answers raise them
            with self._lock:
                self._running = False
                rows = [*self._waiting, *(row for batch in self._batches for row in batch.rows)]
                self._waiting, self._batches = [], []
            for row in rows:
                row.fail(error)

    def _has_work(self) -> bool:
        """Forget finished rows, and return whether others are left; if not, the thread ends."""
        with self._lock:
            self._require_open()
            self._waiting = [row for row in self._waiting if not row.done]
            for batch in self._batches:
                batch.compact()
            self._batches = [batch for batch in self._batches if batch.rows]
            if self._waiting or self._batches:
                return True
            self._running = False
            return False

    def _step(self) -> None:
        """Read a chunk of the prompts that wait, and generate a token of every other text."""
        batches = list(self._batches)
        self._read_prompts(self._streams - sum(len(batch.rows) for batch in batches))
        for batch in batches:
            proposed = self._propose(batch)
            new = [[row.last, *proposed] for row in batch.rows]
            logits = self._forward(new, [row.read for row in batch.rows], batch.cache, len(proposed) + 1)
            self._accept(batch, proposed, logits)

    def _propose(self, batch: _Batch) -> list[int]:
        """Return tokens that may follow in the only row of a batch; none if it has several."""
        (row, *others) = batch.rows
        if others or not isinstance(batch.cache, RowCache):
            return []
        return row.lookup.propose(row.prompt + row.text.ids, min(self._proposed, row.limit - len(row.text.ids) - 1))

    def _accept(self, batch: _Batch, proposed: Sequence[int], logits: Tensor) -> None:
        """Give each row its next token, and the only one further tokens as long as it chooses those proposed.

        `logits` [B, proposed + 1, V] are those at the newest token and at each proposed one.
        """
        for at, expected in enumerate([*proposed, None]):
            self._advance(batch.rows, logits[:, at])
            for row in batch.rows:
                row.read += 1
            if expected is None or batch.rows[0].done or batch.rows[0].last != expected:
                break
        if at < len(proposed):
            batch.cache.forget(len(proposed) - at)

    def _read_prompts(self, room: int) -> None:
        left = self._chunk
        for row in self._waiting[:room]:
            try:
                if not row.read and isinstance(row.cache, RowCache) and not row.echoes:
                    row.read = self._reuse(row.prompt, row.cache)
                chunk = row.prompt[row.read : row.read + left]
                logits = self._forward([chunk], [row.read], row.cache, len(chunk) if row.echoes else 1)
                logits = logits[:, :, : self._model.tokenizer.vocabulary]
                require_finite(logits.amax(-1), self._causal)
                logprobs = row.echo(logits[0])
            except Exception as error:  # such as too little memory; its cache is separate, so the others continue
                row.fail(error)
                continue
            row.read += len(chunk)
            left -= len(chunk)
            if row.read < len(row.prompt) or logprobs:
                row.put("", None, logprobs)
            if row.read == len(row.prompt):
                self._admit(row, logits[:, -1])
            if not left:
                break
        with self._lock:
            self._waiting = [row for row in self._waiting if not row.text.ids and not row.done]

    def _admit(self, row: StreamedAnswer, logits: Tensor) -> None:
        """Generate the first token of a row whose prompt is read, and let it join the others."""
        if row.limit:
            self._advance([row], logits)
        else:
            row.done = True
            row.put("", "length")
        cache, row.cache = row.cache, None
        if isinstance(cache, RowCache):
            self._keep(row.prompt, cache)
        if row.done:
            return
        if not isinstance(cache, RowCache):
            self._batches.append(_Batch([row], cache))
            return
        if not self._batches:
            self._batches.append(_Batch([], RowCache()))
        self._batches[0].cache.add(cache, row.read)
        self._batches[0].rows.append(row)

    def _keep(self, prompt: list[int], cache: RowCache) -> None:
        """Keep the cache of a prompt, for later ones that begin alike."""
        sizes = accumulate(len(ids) for ids, _ in [(prompt, cache), *self._kept])
        kept = sum(size <= _TOKENS_KEPT for size in islice(sizes, _PROMPTS_KEPT))
        self._kept = [(prompt, cache), *self._kept][:kept]

    def _reuse(self, prompt: list[int], cache: RowCache) -> int:
        """Copy the beginning of a prompt, without its last token, from a kept one that shares it; return its length."""
        begun, kept = max(
            ((_common(prompt[:-1], ids), kept) for ids, kept in self._kept), key=lambda each: each[0], default=(0, None)
        )
        if kept is None or begun < _LEAST_KEPT:
            return 0
        cache.add(kept, begun)
        return begun

    def _forward(self, new: Sequence[Sequence[int]], read: Sequence[int], cache: Any, last: int = 1) -> Tensor:
        """Return the logits [B, last, V] at the last `new` tokens of each row; its first `read` tokens are in the cache."""
        device = self._model.head.weight.device
        ids = torch.tensor(new, device=device)
        lengths = torch.tensor(read, device=device)[:, None] + ids.shape[1]
        columns = max(read) + ids.shape[1]
        mask = torch.arange(columns, device=device) >= columns - lengths
        positions = lengths - torch.arange(ids.shape[1], 0, -1, device=device)
        output = self._causal(
            input_ids=ids,
            attention_mask=mask.long(),
            use_cache=True,
            **{self._cache_name: cache},
            **({"position_ids": positions} if self._has_positions else {}),
            **({"logits_to_keep": last} if self._keeps else {}),
        )
        logits: Tensor = output.logits[:, -last:]
        return logits

    def _advance(self, rows: Sequence[StreamedAnswer], logits: Tensor) -> None:
        """Give each row its next token."""
        vocabulary = self._model.tokenizer.vocabulary
        plain = logits[:, :vocabulary].clone() if any(row.logprobs for row in rows) else logits
        for row, row_logits in zip(rows, logits, strict=True):
            if row.removed and self._healing is not None:
                self._healing.restrict(row_logits, row.removed)
        best = choose(logits, [row.sampler for row in rows], vocabulary).max(-1)  # NaN is greater than any number
        for row, token, score, row_logits in zip(rows, best.indices.tolist(), best.values.tolist(), plain, strict=True):
            if not isfinite(score):
                row.fail(not_finite(self._causal))
            if row.removed and self._healing is not None:
                row.removed = self._healing.rest(row.removed, token)
            if not row.done:
                row.accept(token, row_logits)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


class Healing:
    """Removes the last token of prompts, and restricts logits to tokens that spell a text.

    Raises:
        UsageError: the bytes of the tokenizer's tokens are unknown.
    """

    def __init__(self, tokenizer: TransformersTokenizer) -> None:
        self._tokenizer = tokenizer
        ids = range(tokenizer.vocabulary)
        self._pieces = tokenizer.pieces([*ids, *ids])[
            len(ids) :
        ]  # twice: some tokenizers drop the space of the first word
        self._sorted = sorted((piece, index) for index, piece in enumerate(self._pieces) if piece)

    def shorten(self, request: kdtool.Request) -> tuple[kdtool.Request, bytes]:
        """Return a request without the last token of its prompt, and that token's bytes; unchanged if it has only one."""
        ids = self._tokenizer.encode(request.prompt)
        before = self._tokenizer.decode(ids[:-1])
        removed = request.prompt[len(before) :].encode()
        if not (before and request.prompt.startswith(before) and removed and self._pieces[ids[-1]] == removed):
            return request, b""
        return replace(request, prompt=before), removed

    def restrict(self, logits: Tensor, text: bytes) -> None:
        """Set the logits [V] of all tokens to −∞ except those that begin with a text or that it begins with."""
        ends = (text[:length] for length in range(1, len(text)))
        spelling = [*self._beginning_with(text), *(index for end in ends for index in self._equal_to(end))]
        kept = logits[spelling]
        logits.fill_(-torch.inf)
        logits[spelling] = kept

    def rest(self, text: bytes, token: int) -> bytes:
        """Return the part of a text that is still to be spelt after a token."""
        return text[len(self._pieces[token]) :]

    def _beginning_with(self, text: bytes) -> Iterator[int]:
        for number in range(bisect_left(self._sorted, (text,)), len(self._sorted)):
            piece, index = self._sorted[number]
            if not piece.startswith(text):
                return
            yield index

    def _equal_to(self, text: bytes) -> Iterator[int]:
        """Yield the tokens of a text; they are the first of those that begin with it."""
        for index in self._beginning_with(text):
            if self._pieces[index] != text:
                return
            yield index
