"""An answer that is being generated: its state, the text that it releases, and tokens proposed from its prompt.

Text is released in whole characters, without any that may still be cut. Prompt lookup proposes the tokens that followed an
earlier occurrence of a text's last tokens. Code repeats itself: names, calls and indentation of a prompt return in its
answer. A forward pass over a few tokens reads the weights once, as one over a single token does, so each correct proposal
saves most of a pass (prompt lookup decoding, Saxena 2023; `ngram` in vLLM).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Literal

import kdtool
import torch
from kdtool_torch import Sampler
from torch import Tensor

from kdtool_transformers.attention import CausalModel
from kdtool_transformers.generation import end_ids, finish_text, text_behind
from kdtool_transformers.prompts import held_back
from kdtool_transformers.tokenizer import TransformersTokenizer

Pieces = SimpleQueue[kdtool.TextPiece | BaseException]
"""The pieces of an answer, or the error that ended it."""


def take_pieces(pieces: Pieces) -> Iterator[kdtool.TextPiece]:
    """Yield the pieces of an answer as they come, up to its end; raise the error that ended it."""
    finish = None
    while finish is None:
        piece = pieces.get()
        if isinstance(piece, BaseException):
            raise piece
        yield piece
        finish = piece.finish


class StreamedAnswer:
    """A text that is generated: its state, and the queue of its pieces. `read` counts the tokens in its cache.

    The cache is its own until its prompt is read, then its batch's. The answer begins with the text `removed` from its
    prompt (see `Healing`), which is not shown; as long as it is not spelt, `removed` is the rest of it. With `whole`, it has
    no pieces: the whole answer goes to that queue.
    """

    def __init__(
        self,
        model: CausalModel,
        request: kdtool.Request,
        prompt: list[int],
        limit: int,
        cache: Any,
        removed: bytes = b"",
        whole: SimpleQueue[kdtool.TextAnswer | BaseException] | None = None,
    ) -> None:
        tokenizer = model.tokenizer
        self.prompt, self.cache, self.removed = prompt, cache, removed
        self._again = int(bool(removed))
        self.limit = limit + self._again
        self.ends = end_ids(tokenizer, request)
        self.sampler = Sampler.of(request, model.head.weight.device)
        self.text: GrowingText | WholeText = WholeText(tokenizer, request, prompt)
        if whole is None:
            self.text = GrowingText(tokenizer, request, prompt, len(removed.decode()))
        self._id, self._whole = request.id, whole
        self.logprobs = None if request.logprobs is None else _Logprobs(tokenizer, request.logprobs)
        self.echoes = request.echo and self.logprobs is not None
        self._unlisted = _start_length(tokenizer, request, prompt) if self.echoes else 0
        self._pieces = tokenizer.pieces(prompt) if self.echoes else []
        self.pieces: Pieces = SimpleQueue()
        self.lookup = PromptLookup()
        self.read = 0
        self.done = False

    @property
    def last(self) -> int:
        """The newest token."""
        return self.text.ids[-1]

    def accept(self, token: int, logits: Tensor) -> None:
        """Put the piece of a new token; `logits` [vocabulary] are those it was chosen by."""
        ended = token in self.ends
        is_listed = self.logprobs is not None and (self.echoes or not ended)
        logprobs = self.logprobs.of([token], logits[None]) if self.logprobs is not None and is_listed else ()
        text = "" if ended else self.text.add(token)
        if ended or self.text.has_stopped() or len(self.text.ids) >= self.limit:
            rest, finish = self.text.finish(ended=ended)
            self.done = True
            self.put(text + rest, finish, logprobs)
        else:
            self.put(text, None, logprobs)

    def echo(self, logits: Tensor) -> tuple[kdtool.TokenLogprob, ...]:
        """Return the log-probabilities of the prompt's tokens that `logits` [n, V] predict, those after the tokens read."""
        if self.logprobs is None or not self.echoes:
            return ()
        begin = self.read + bool(self.read)
        if not self.read:  # nothing predicts the first
            logits = torch.cat([logits[:1], logits])
            logits[self._unlisted : self._unlisted + 1] = torch.nan
        first = max(begin, self._unlisted)
        tokens = self.prompt[first : begin + len(logits)]
        return self.logprobs.of(tokens, logits[first - begin :][: len(tokens)], self._pieces[first:])

    def fail(self, error: BaseException) -> None:
        """End the answer with an error."""
        self.done = True
        (self._whole or self.pieces).put(error)

    def put(
        self, text: str, finish: Literal["stop", "length"] | None = None, logprobs: tuple[kdtool.TokenLogprob, ...] = ()
    ) -> None:
        tokens_in, tokens_out = len(self.prompt) + self._again, max(0, len(self.text.ids) - self._again)
        if self._whole is None:
            self.pieces.put(kdtool.TextPiece(text, tokens_in, tokens_out, finish, logprobs=logprobs))
        elif finish is not None:
            self._whole.put(kdtool.TextAnswer(self._id, text, finish, tokens_in, tokens_out))


class _Logprobs:
    """Log-probabilities of tokens, with those of the `count` likeliest."""

    def __init__(self, tokenizer: TransformersTokenizer, count: int) -> None:
        self._tokenizer, self._count = tokenizer, count
        self._piece(tokenizer.end_of_text)  # refuses a tokenizer whose tokens cannot be written one by one

    def of(
        self, tokens: Sequence[int], logits: Tensor, pieces: Sequence[bytes] = ()
    ) -> tuple[kdtool.TokenLogprob, ...]:
        """Return those of tokens, from their logits [tokens, V]. `pieces`: their bytes, if not as after others."""
        values = logits.float().log_softmax(-1)
        best = values.topk(min(self._count, values.shape[-1]))
        chosen = values.gather(-1, torch.tensor([tokens], dtype=torch.long, device=values.device).T).flatten().tolist()
        likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        tops = (tuple(zip(map(self._name, ids), of_ids, strict=True)) for ids, of_ids in likeliest)
        rows = zip(tokens, pieces or map(self._piece, tokens), chosen, tops, strict=False)
        return tuple(kdtool.TokenLogprob(self._name(i, piece), p, top, bool(piece)) for i, piece, p, top in rows)

    def _name(self, token: int, piece: bytes | None = None) -> str:
        """Return a token's text, and the name of a control token."""
        written = self._piece(token) if piece is None else piece
        return written.decode("utf-8", "surrogateescape") or self._tokenizer.inner.convert_ids_to_tokens(token) or ""

    def _piece(self, token: int) -> bytes:
        # Decoded after another token, since some tokenizers drop the space of the first.
        return self._tokenizer.pieces([token, token])[1]


def _start_length(tokenizer: TransformersTokenizer, request: kdtool.Request, prompt: list[int]) -> int:
    """Return how many tokens precede those of a request's prompt.

    Raises:
        UsageError: its text contains control tokens, which would not be read as such.
    """
    if request.ids:
        return 0
    ids = tokenizer.encode_template(request.prompt)
    if ids and ids != prompt[-len(ids) :]:
        raise kdtool.UsageError(
            "prompt: control tokens in a text are read as text, so the tokens of its log-probabilities would not be those "
            "that you expect; send token ids, or leave out the control tokens"
        )
    return len(prompt) - len(ids)


_DECODED_BEFORE = 16
"""Tokens of the prompt that are decoded with an answer, so that its first word keeps a leading space."""
_INCOMPLETE = "\ufffd"
"""Decoding writes it for an incomplete character."""


class GrowingText:
    """The text of an answer, released piece by piece.

    It holds back an incomplete character, and text that may be the beginning of a stop string or of the suffix that
    `trim_suffix` removes. `ids` are the tokens of the answer so far. The first `hidden` characters belong to the prompt.
    """

    def __init__(
        self, tokenizer: TransformersTokenizer, request: kdtool.Request, prompt: list[int], hidden: int = 0
    ) -> None:
        self.ids: list[int] = []
        self._tokenizer, self._request, self._prompt = tokenizer, request, prompt
        self._text = ""
        self._hidden = self._released = hidden
        self._window = prompt[-_DECODED_BEFORE:]
        self._read = len(self._window)

    def add(self, token: int) -> str:
        """Add a token, and return the text that can be released."""
        self.ids.append(token)
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        if text.endswith(_INCOMPLETE):
            return ""
        new = text[len(self._tokenizer.decode(self._window[: self._read])) :]
        if new:  # special tokens have no text, and a word decoded after them would lose its space
            del self._window[: self._read]
        self._read = len(self._window)
        self._text += new
        return self._release(len(self._text) - self._hold_back())

    def has_stopped(self) -> bool:
        """Return whether the text that is held back contains a stop string."""
        return any(stop in self._text[self._released :] for stop in self._request.stop)

    def finish(self, *, ended: bool) -> tuple[str, Literal["stop", "length"]]:
        """Return the rest of the answer, and the reason of its end; `ended`: a token of the model ended it."""
        whole = text_behind(self._tokenizer, self._prompt, self.ids)
        if whole.startswith(self._text[: self._released]):  # byte tokens that make no character may change earlier ones
            self._text = whole
        shown, finish = finish_text(self._text[self._hidden :], self._request, ended)
        self._text = self._text[: self._hidden] + shown
        return self._release(len(self._text)), finish

    def _release(self, end: int) -> str:
        begin, self._released = self._released, max(self._released, end)
        return self._text[begin:end]

    def _hold_back(self) -> int:
        """Return how many characters at the end are held back."""
        text, stops = self._text[self._released :], self._request.stop
        if self.has_stopped():
            return len(text)
        return held_back(text, stops, self._request.suffix or "")


class WholeText:
    """The text of an answer that is released at its end. `ids` are its tokens so far."""

    def __init__(self, tokenizer: TransformersTokenizer, request: kdtool.Request, prompt: list[int]) -> None:
        self.ids: list[int] = []
        self._tokenizer, self._request, self._prompt = tokenizer, request, prompt
        # Every token stands for at least one byte, so a stop string that just ended is within that many tokens.
        self._tail = max((len(stop.encode()) + 1 for stop in request.stop), default=0)

    def add(self, token: int) -> str:
        """Add a token."""
        self.ids.append(token)
        return ""

    def has_stopped(self) -> bool:
        """Return whether the last tokens contain a stop string."""
        tail = self._tokenizer.decode(self.ids[-self._tail :]) if self._tail else ""
        return any(stop in tail for stop in self._request.stop)

    def finish(self, *, ended: bool) -> tuple[str, Literal["stop", "length"]]:
        """Return the answer, and the reason of its end; `ended`: a token of the model ended it."""
        return finish_text(text_behind(self._tokenizer, self._prompt, self.ids), self._request, ended)


PROPOSED = 4
"""Tokens that are proposed at once, by measurement: see docs/benchmarks/serving.md."""
_REPEATED_LENGTHS = (3, 2)
"""Tokens that must repeat, the longest sequence first."""


class PromptLookup:
    """Finds where the last tokens of a growing text occurred before."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Return the tokens after the latest earlier occurrence of the last tokens of `ids`: `most`, fewer, or none.

        `ids` begins with those of the call before.
        """
        for at in range(self._indexed, len(ids)):
            for length in _REPEATED_LENGTHS:
                if at >= length:
                    self._next[tuple(ids[at - length : at])] = at
        self._indexed = len(ids)
        for length in _REPEATED_LENGTHS:
            begin = self._next.get(tuple(ids[-length:]))
            if begin is not None:
                return [*ids[begin : begin + most]]
        return []
