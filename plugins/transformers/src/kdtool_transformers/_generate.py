"""New tokens behind prompts, by `model.generate`: answers to requests, and text that a student continues while it learns.

`TransformersRuntime` calls `generate`, `TransformersModel.generate` calls `continue_ids`. Sampling adds Gumbel noise from
the text's own generator to its logits and takes the greatest (Gumbel-max trick: an exact sample of the softmax), so that a
text does not depend on what shares its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import kdtool
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from kdtool_transformers._causal import CausalModel, context_of
from kdtool_transformers._tokenizer import TransformersTokenizer

__all__ = ["answer_requests", "continue_ids", "eval_mode", "generate", "prompt_ids", "together"]

_REQUESTS_SORTED = 64
_TEXTS_AT_ONCE = 16
_TOKENS_AT_ONCE = 16384
"""Prompts and what follows them, of a batch together: what its key-value cache has to hold."""


class _Text(NamedTuple):
    """A prompt, and how to continue it by at most `limit` tokens."""

    prompt: Sequence[int]
    limit: int
    temperature: float
    seed: int
    stop: tuple[str, ...] = ()


def generate(
    model: Any, tokenizer: TransformersTokenizer, device: torch.device, requests: Sequence[kdtool.Request]
) -> list[kdtool.TextAnswer]:
    """Answer requests in one batch, in order, by a model with `generate` that reads tokens on a device. No gradient.

    An answer ends before its first stop string, at an end-of-text or end-of-turn token ("stop"), or after `max_tokens`
    or the model's context ("length").

    Raises:
        UsageError: a prompt fills the whole context.
    """
    context = context_of(model)
    prompts = [prompt_ids(tokenizer, request) for request in requests]
    texts = [
        _Text(
            prompt,
            _limit(f"the prompt of request {request.id}", request.max_tokens, len(prompt), context),
            request.temperature,
            request.seed,
            request.stop,
        )
        for request, prompt in zip(requests, prompts, strict=True)
    ]
    new = _continue(model, tokenizer, device, texts)
    return [
        _answer(request, prompt, ids, tokenizer) for request, prompt, ids in zip(requests, prompts, new, strict=True)
    ]


def continue_ids(
    language_model: CausalModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    temperature: float,
    seeds: Sequence[int],
) -> list[list[int]]:
    """Continue prompts, those of similar length together; see `kdtool.LanguageModel.generate`."""
    model, tokenizer, device = language_model.model, language_model.tokenizer, language_model.head.weight.device
    context = context_of(model)
    texts = [
        _Text(prompt, _limit(f"prompt {number}", limit, len(prompt), context), temperature, seed)
        for number, (prompt, limit, seed) in enumerate(zip(prompts, limits, seeds, strict=True))
    ]
    found: dict[int, list[int]] = {}
    for numbers in together([len(text.prompt) + text.limit for text in texts]):
        new = _continue(model, tokenizer, device, [texts[number] for number in numbers])
        found.update(zip(numbers, new, strict=True))
    return [found[number] for number in range(len(texts))]


def answer_requests(
    requests: Iterable[kdtool.Request],
    tokenizer: TransformersTokenizer,
    context: int,
    generate_batch: Callable[[list[kdtool.Request]], list[kdtool.TextAnswer]],
) -> Iterator[kdtool.TextAnswer]:
    """Answer requests, those of similar length together; one whose prompt leaves no room in the context is "refused".

    `context` is the greatest number of tokens that the model reads; 0: not known.
    """
    waiting = iter(requests)
    while group := list(islice(waiting, _REQUESTS_SORTED)):
        lengths = [len(prompt_ids(tokenizer, request)) for request in group]
        fitting = []
        for request, length in zip(group, lengths, strict=True):
            if context and length >= context:
                yield kdtool.TextAnswer(request.id, "", "refused", length, 0)
            else:
                fitting.append((request, length + request.max_tokens))
        for numbers in together([min(size, context) if context else size for _, size in fitting]):
            yield from generate_batch([fitting[number][0] for number in numbers])


def together(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Group texts of so many tokens, by number, longest first: so little is padded, and a batch's cache has its size."""
    order = sorted(range(len(sizes)), key=lambda number: -sizes[number])
    while order:
        count = max(1, min(_TEXTS_AT_ONCE, _TOKENS_AT_ONCE // max(1, sizes[order[0]])))
        yield order[:count]
        order = order[count:]


def _continue(
    model: Any, tokenizer: TransformersTokenizer, device: torch.device, texts: Sequence[_Text]
) -> list[list[int]]:
    """Return the new tokens of each text, up to the first that ends it, or to its limit."""
    longest = max(len(text.prompt) for text in texts)
    padded = [[tokenizer.end_of_text] * (longest - len(text.prompt)) + list(text.prompt) for text in texts]
    mask = [[0] * (longest - len(text.prompt)) + [1] * len(text.prompt) for text in texts]
    settings = GenerationConfig(
        max_new_tokens=max(text.limit for text in texts),
        do_sample=False,
        use_cache=True,  # whatever a training left in the configuration
        pad_token_id=tokenizer.end_of_text,
        eos_token_id=list(tokenizer.end_ids),
    )
    own_settings, model.generation_config = (
        model.generation_config,
        GenerationConfig(),
    )  # no penalties of the model's own
    try:
        with eval_mode(model):
            output = model.generate(
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([_Sampler(texts, tokenizer.vocabulary, device)]),
                stopping_criteria=StoppingCriteriaList([_Stopper(texts, tokenizer, longest)]),
            )
    finally:
        model.generation_config = own_settings
    new = output[:, longest:].tolist()
    return [_cut(ids[: text.limit], tokenizer.end_ids) for ids, text in zip(new, texts, strict=True)]


def _cut(ids: list[int], ends: Sequence[int]) -> list[int]:
    ended = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    return ids[: ended + 1]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Run without dropout and gradients; afterwards each module is in the mode it was in.

    Not inference_mode: what a model keeps of a pass, such as its rotary frequencies, must serve in training too.
    """
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for each, mode in modes.items():
            each.training = mode


def prompt_ids(tokenizer: TransformersTokenizer, request: kdtool.Request) -> list[int]:
    """Return the ids of a request's prompt as the model expects it, one at least.

    Raises:
        UsageError: there are turns before, and the tokenizer has no template for them, or it refuses them.
    """
    if request.turns:
        return tokenizer.encode_prompt(request.turns, request.prompt)
    ids = tokenizer.encode(request.prompt)
    return [*tokenizer.missing_start(ids), *ids] or [tokenizer.end_of_text]


def _limit(what: str, limit: int, prompt: int, context: int) -> int:
    if context and prompt >= context:
        raise kdtool.UsageError(f"{what} has {prompt} tokens; the model's context of {context} leaves no room")
    return min(limit, context - prompt) if context else limit


def _answer(
    request: kdtool.Request, prompt: list[int], ids: list[int], tokenizer: TransformersTokenizer
) -> kdtool.TextAnswer:
    ended = next((at for at, token in enumerate(ids) if token in tokenizer.end_ids), None)
    if ended is not None:
        ids = ids[:ended]
    # Some tokenizers drop a leading space of what they decode; decoding behind the prompt keeps it.
    before, whole = tokenizer.decode(prompt), tokenizer.decode(prompt + ids)
    text = whole[len(before) :] if whole.startswith(before) else tokenizer.decode(ids)
    stops = [at for stop in request.stop if (at := text.find(stop)) >= 0]
    return kdtool.TextAnswer(
        id=request.id,
        text=text[: min(stops)] if stops else text,
        finish="stop" if stops or ended is not None else "length",
        tokens_in=len(prompt),
        tokens_out=len(ids),
    )


class _Sampler:
    """Masks padding of the vocabulary, and turns the greatest logit into a sample where a temperature is set."""

    def __init__(self, texts: Sequence[_Text], vocabulary: int, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._drawn = [
            (row, text.temperature, torch.Generator(device).manual_seed(text.seed))
            for row, text in enumerate(texts)
            if text.temperature > 0
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.float()
        scores[:, self._vocabulary :] = -torch.inf
        for row, temperature, generator in self._drawn:
            noise = torch.empty_like(scores[row]).exponential_(generator=generator)
            scores[row] = scores[row] / temperature - noise.log()
        return scores


class _Stopper:
    """Ends a row at its own limit of tokens or once a stop string appeared."""

    def __init__(self, texts: Sequence[_Text], tokenizer: TransformersTokenizer, prompt: int) -> None:
        self._texts = texts
        self._tokenizer = tokenizer
        self._prompt = prompt
        # Every token stands for at least one byte, so a stop string that just ended lies in that many tokens.
        self._tails = [max((len(stop.encode()) for stop in text.stop), default=0) + 1 for text in texts]

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        new = input_ids[:, self._prompt :].tolist()
        done = [
            len(ids) >= text.limit or self._is_stopped(ids[-tail:], text.stop)
            for ids, text, tail in zip(new, self._texts, self._tails, strict=True)
        ]
        return torch.tensor(done, device=input_ids.device)

    def _is_stopped(self, tail: list[int], stops: tuple[str, ...]) -> bool:
        if not stops:
            return False
        text = self._tokenizer.decode(tail)
        return any(stop in text for stop in stops)
