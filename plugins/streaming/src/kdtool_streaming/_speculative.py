"""`SpeculativeRuntime`: answers of a target model, generated faster by a draft model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from queue import SimpleQueue
from threading import Event, Thread

import kdtool
import torch
from kdtool_torch import Sampler
from kdtool_transformers import TransformersRuntime, prompt_ids
from torch import Tensor

from kdtool_streaming._answer import StreamedAnswer
from kdtool_streaming._reading import Reading, new_cache
from kdtool_streaming._rule import draw, keep_likeliest, keep_samples

__all__ = ["Speculation", "SpeculativeRuntime"]


@dataclass
class Speculation:
    """An answer's verification steps, each one forward pass of the target, and the tokens that they produced."""

    steps: int = 0
    tokens: int = 0

    @property
    def tokens_per_step(self) -> float:
        """New tokens per step, from 1 to the drafted tokens + 1; 0 without steps."""
        return self.tokens / self.steps if self.steps else 0.0


class SpeculativeRuntime(kdtool.Runtime):
    """Answers as the target does, and is closed with both models.

    In each step the draft proposes `tokens` tokens, and the target verifies all of them in one forward pass. Greedy answers
    are the target's up to rounding; sampled ones have its distribution, but are not its own samples with the same seed.
    `last` counts the steps of the latest answer.

    Raises:
        UsageError: one of them is not a model of transformers whose layers attend, or their vocabularies differ.
    """

    def __init__(self, target: kdtool.Runtime, draft: kdtool.Runtime, tokens: int = 4) -> None:
        self._target, self._draft = _require_transformers(target, "target"), _require_transformers(draft, "draft")
        self._tokens = tokens
        self.model = target.model
        self.abilities = target.abilities
        self.last = Speculation()
        _require_same_vocabulary(self._target, self._draft)
        with self._target.passes() as model:
            self._device = model.head.weight.device

    @property
    def dtype(self) -> str:
        """Name of the target's dtype for verification; in float32, greedy answers are the target's own."""
        with self._target.passes() as model:
            return str(self._target.compute or model.head.weight.dtype).removeprefix("torch.")

    @property
    def tokens_per_step(self) -> float:
        """New tokens for each verification step of the latest answer."""
        return self.last.tokens_per_step

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Answer requests one after the other; see `kdtool.Runtime.answer`."""
        for request in requests:
            pieces = list(self.stream(request))
            text, last = "".join(piece.text for piece in pieces), pieces[-1]
            yield kdtool.TextAnswer(request.id, text, last.finish or "stop", last.tokens_in, last.tokens_out)

    def stream(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        """Yield an answer while it is generated, one piece per step; see `kdtool.Runtime.stream`."""
        pieces: SimpleQueue[kdtool.TextPiece | BaseException] = SimpleQueue()
        stop = Event()
        thread = Thread(target=self._run, args=(request, pieces, stop), name="kdtool-speculation", daemon=True)
        thread.start()
        try:
            finish = None
            while finish is None:
                piece = pieces.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                finish = piece.finish
        finally:
            stop.set()
            thread.join()

    def _run(self, request: kdtool.Request, pieces: SimpleQueue[kdtool.TextPiece | BaseException], stop: Event) -> None:
        """Put the pieces of an answer, or the error that ends it, into a queue.

        It runs in a separate thread: autocast keeps the weights it converted only within its outermost context, which
        must not reach the thread that reads the pieces.
        """
        try:
            with torch.autocast(self._device.type, enabled=False):
                for piece in self._generate(request):
                    pieces.put(piece)
                    if stop.is_set():
                        return
        except BaseException as error:  # the reader raises it
            pieces.put(error)

    def _generate(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        self.last = count = Speculation()
        with self._target.passes() as model:
            prompt = prompt_ids(model.tokenizer, request)
            room = self._target.context - len(prompt) if self._target.context else request.max_tokens
            row = StreamedAnswer(model, request, prompt, min(request.max_tokens, room), None)
            vocabulary = model.tokenizer.vocabulary
        if room <= 0:
            yield kdtool.TextPiece("", len(prompt), 0, "refused")
            return
        target, draft = Reading(self._target, vocabulary), Reading(self._draft, vocabulary)
        for reading in (target, draft) if self._room(prompt) > 0 else (target,):
            for _ in reading.read_chunks(prompt[:-1]):
                yield kdtool.TextPiece("", len(prompt), 0)
        sampling = _Sampling(row.sampler, torch.Generator(self._device).manual_seed(request.seed))
        finish = None
        while finish is None:
            new, logits = self._step(target, draft, row, sampling)
            count.steps += 1
            pieces = []
            for token, token_logits in zip(new, logits, strict=False):
                count.tokens += 1
                row.accept(token, token_logits)
                pieces.append(_next_piece(row))
                finish = pieces[-1].finish
                if finish is not None:
                    break
            yield _join(pieces)

    def _step(
        self, target: Reading, draft: Reading, row: StreamedAnswer, sampling: _Sampling
    ) -> tuple[list[int], Tensor]:
        """Return the next tokens, and logits with one row for each of them."""
        ids = row.prompt + row.text.ids
        most = min(self._tokens, row.limit - len(row.text.ids) - 1, self._room(ids))
        drafted = sampling.propose(draft, ids, most, row.ends)
        logits = target.advance(ids + drafted, len(drafted) + 1)
        new = sampling.keep(drafted, logits)
        for reading in (target, draft):
            reading.crop(len(ids) + len(new) - 1)
        return new, logits

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Score texts by the target."""
        return self._target.score(texts)

    def memory(self) -> int:
        """Return the bytes of both models' weights."""
        return self._target.memory() + self._draft.memory()

    def close(self) -> None:
        """Close both models."""
        self.model = None
        self._target.close()
        self._draft.close()

    def unload(self) -> None:
        """Close both, and release their weights."""
        self.model = None
        self._target.unload()
        self._draft.unload()

    def _room(self, ids: Sequence[int]) -> int:
        """Return how many tokens the draft can still read."""
        return self._draft.context - len(ids) if self._draft.context else self._tokens


class _Sampling:
    """Proposes and keeps tokens of one answer, by the sampler of its request."""

    def __init__(self, sampler: Sampler, generator: torch.Generator) -> None:
        self._sampler, self._generator = sampler, generator
        self._drafts: list[Tensor] = []

    def propose(self, draft: Reading, ids: Sequence[int], most: int, ends: Sequence[int]) -> list[int]:
        """Return the draft's next tokens: `most` or fewer, and none after an end."""
        drafted: list[int] = []
        self._drafts = []
        while len(drafted) < most and not (drafted and drafted[-1] in ends):
            (logits,) = draft.advance([*ids, *drafted], 1)
            if self._sampler.draws:
                self._drafts.append(self._sampler.probabilities(logits.to(self._generator.device)))
                drafted.append(draw(self._drafts[-1], self._generator))
            else:
                drafted.append(int(logits.argmax()))
        return drafted

    def keep(self, drafted: Sequence[int], logits: Tensor) -> list[int]:
        """Return the new tokens, by the target's logits [drafted + 1, V]."""
        if not self._sampler.draws:
            return keep_likeliest(drafted, logits)
        targets = [self._sampler.probabilities(each) for each in logits]
        return keep_samples(drafted, self._drafts, targets, self._generator)


def _next_piece(row: StreamedAnswer) -> kdtool.TextPiece:
    piece = row.pieces.get()
    if isinstance(piece, BaseException):
        raise piece
    return piece


def _join(pieces: Sequence[kdtool.TextPiece]) -> kdtool.TextPiece:
    """Return the pieces of a step as one: they come at the same time."""
    text = "".join(piece.text for piece in pieces)
    return replace(pieces[-1], text=text, logprobs=tuple(chain.from_iterable(piece.logprobs for piece in pieces)))


def _require_transformers(runtime: kdtool.Runtime, role: str) -> TransformersRuntime:
    if not isinstance(runtime, TransformersRuntime) or runtime.model is None:
        raise kdtool.UsageError(
            f"the {role} of speculative decoding is not a model of transformers, whose logits are needed; name a model's "
            "folder or a subject of a run instead of an exported file or a server"
        )
    with runtime.passes() as model:
        if not new_cache(model).is_croppable:
            raise kdtool.UsageError(
                f"the {role} of speculative decoding keeps a state that cannot be rolled back by a few tokens; name a model "
                "whose layers all attend"
            )
    return runtime


def _require_same_vocabulary(target: TransformersRuntime, draft: TransformersRuntime) -> None:
    with target.passes() as verifier, draft.passes() as drafter:
        comparison = kdtool.Vocabularies.compare(drafter.tokenizer, verifier.tokenizer)
    if comparison.relation not in ("same", "tokens"):
        draft_size, target_size = comparison.sizes
        raise kdtool.UsageError(
            f"the draft's vocabulary of {draft_size:,} tokens differs from the target's of {target_size:,}; take a draft "
            "with the target's tokenizer"
        )
