"""Speculative decoding: answers of a target model, generated faster by a draft model.

Each model reads a growing text and can discard its end: keys and values are cropped, not recomputed. Proposed tokens stay
by a rule under which the text is the target's (Leviathan et al. 2023, arXiv 2211.17192).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from queue import SimpleQueue
from threading import Event, Thread

import kdtool
import torch
from kdtool_torch import Sampler, require_finite
from torch import Tensor
from transformers import DynamicCache

from kdtool_transformers.attention import cache_name, causal_of
from kdtool_transformers.generation import prompt_ids
from kdtool_transformers.runtime import TransformersRuntime
from kdtool_transformers.streaming.answer import Pieces, StreamedAnswer, take_pieces


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
        self.abilities = target.abilities - {"echo"}
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
        pieces: Pieces = SimpleQueue()
        stop = Event()
        thread = Thread(target=self._run, args=(request, pieces, stop), name="kdtool-speculation", daemon=True)
        thread.start()
        try:
            yield from take_pieces(pieces)
        finally:
            stop.set()
            thread.join()

    def _run(self, request: kdtool.Request, pieces: Pieces, stop: Event) -> None:
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
                pieces.append(next(take_pieces(row.pieces)))
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


class DraftedModels(kdtool.Models):
    """The models of a run, of which those `drafted`, except the `draft` itself, are opened together with the draft.

    `say` gets a line for each of these that computes in 16 bits, since its drafted answers may differ from its own.

    Raises:
        UsageError: no model has the draft's name.
    """

    def __init__(
        self, models: kdtool.Models, draft: str, drafted: Collection[str], say: Callable[[str], object] = lambda _: None
    ) -> None:
        self.subjects, self.results = models.subjects, models.results
        self._models, self._draft, self._drafted = models, draft, {*drafted} - {draft}
        self._say = say
        if draft not in self.subjects:
            models.open(draft)  # its error lists the names

    def open(self, name: str) -> kdtool.Runtime:
        """Open a model; see `kdtool.Models.open`.

        Raises:
            UsageError: as there; or the draft cannot draft for this model.
        """
        if name not in self._drafted:
            return self._models.open(name)
        with ExitStack() as opened:
            target, drafting = (opened.enter_context(self._models.open(each)) for each in (name, self._draft))
            runtime = SpeculativeRuntime(target, drafting)
            opened.pop_all()
        if runtime.dtype != "float32":
            self._say(
                f"{name} computes in {runtime.dtype}: with --draft, a greedy answer can differ from its own if two "
                "tokens are almost equally likely"
            )
        return runtime


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
        if not new_croppable_cache(model).is_croppable:
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


_CHUNK = 256
"""Tokens of a prompt that are read at once."""


def new_croppable_cache(model: kdtool.LanguageModel) -> DynamicCache:
    """Return an empty cache whose sliding windows can be cropped, too."""
    cache = DynamicCache(config=causal_of(model.model).config)
    cache.activate_past_recording()
    return cache


class Reading:
    """One model and one text. `read` counts the tokens whose keys and values are kept; `vocabulary` is the true one."""

    def __init__(self, runtime: TransformersRuntime, vocabulary: int) -> None:
        self._runtime, self._vocabulary = runtime, vocabulary
        self.read = 0
        with runtime.passes() as model:
            self._causal = causal_of(model.model)
            self._device, self._cache = model.head.weight.device, new_croppable_cache(model)
        self._cache_name = cache_name(self._causal)
        self._keeps = "logits_to_keep" in inspect.signature(self._causal.forward).parameters

    def read_chunks(self, ids: Sequence[int]) -> Iterator[None]:
        """Read a prompt, one chunk per step."""
        while self.read < len(ids):
            self.advance(ids[: self.read + _CHUNK], 1)
            self.crop(self.read)
            yield

    def advance(self, ids: Sequence[int], last: int) -> Tensor:
        """Read the unread tokens of `ids`, and return the float32 logits [last, vocabulary] of the last ones."""
        new = torch.tensor([ids[self.read :]], device=self._device)
        options = {"logits_to_keep": last} if self._keeps else {}
        with self._runtime.passes():
            output = self._causal(input_ids=new, use_cache=True, **{self._cache_name: self._cache}, **options)
        self.read = len(ids)
        logits: Tensor = output.logits[0, -last:, : self._vocabulary].float()
        require_finite(logits.amax(-1), self._causal)
        return logits

    def crop(self, length: int) -> None:
        """Forget all tokens after the first `length`."""
        self._cache.crop(min(0, length - self.read))
        self.read = min(self.read, length)


def keep_likeliest(drafted: Sequence[int], logits: Tensor) -> list[int]:
    """Return the drafted tokens up to the first that is not the target's likeliest, and the likeliest one there.

    `logits` [drafted + 1, V] are the target's, each predicting a drafted token, the last one the token after them.
    """
    likeliest: list[int] = logits.argmax(-1).tolist()
    kept = next((at for at, token in enumerate(drafted) if token != likeliest[at]), len(drafted))
    return likeliest[: kept + 1]


def keep_samples(
    drafted: Sequence[int], drafts: Sequence[Tensor], targets: Sequence[Tensor], generator: torch.Generator
) -> list[int]:
    """Return the drafted tokens up to the first that is rejected, and a token of the target in its place or after them.

    Token x was drawn from q and is accepted with probability min(1, p(x) / q(x)); a rejected one is replaced by a draw from
    max(0, p - q), normalised. Then each token has the distribution p.

    Args:
        drafted: the tokens proposed.
        drafts: for each of them, the distribution q [V] that it was drawn from.
        targets: the target's distributions p [V], one more than tokens.
        generator: of the device of all of them.
    """
    for at, (token, q, p) in enumerate(zip(drafted, drafts, targets, strict=False)):
        chance = torch.rand((), generator=generator, device=p.device)
        if chance * q[token] >= p[token]:
            excess = (p - q).clamp(min=0)
            # If p and q are equal, only rounding rejects.
            return [*drafted[:at], draw(excess if excess.sum() > 0 else p, generator)]
    return [*drafted, draw(targets[-1], generator)]


def draw(weights: Tensor, generator: torch.Generator) -> int:
    """Return a token drawn with these weights [V], which need not sum to 1."""
    return int(torch.multinomial(weights, 1, generator=generator))
