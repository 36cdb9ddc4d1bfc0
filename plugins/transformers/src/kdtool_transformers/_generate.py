"""Answers to a batch of prompts by `model.generate`, each with its own length, stop strings, temperature and seed.

`TransformersRuntime` calls it. Sampling adds Gumbel noise from the request's own generator to its logits and takes the
greatest (Gumbel-max trick: an exact sample of the softmax), so that an answer does not depend on what shares its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kdtool
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from kdtool_transformers._model import TransformersModel
from kdtool_transformers._tokenizer import TransformersTokenizer

__all__ = ["generate", "prompt_ids"]


def generate(language_model: TransformersModel, requests: Sequence[kdtool.Request]) -> list[kdtool.TextAnswer]:
    """Answer requests in one batch, in order. No gradient.

    An answer ends before its first stop string, at an end-of-text or end-of-turn token ("stop"), or after `max_tokens`
    or the model's context ("length").

    Raises:
        UsageError: a prompt fills the whole context.
    """
    model, tokenizer = language_model.model, language_model.tokenizer
    context = language_model.facts.context
    prompts = [prompt_ids(tokenizer, request.prompt) for request in requests]
    limits = [_limit(request, len(prompt), context) for request, prompt in zip(requests, prompts, strict=True)]
    device, longest = language_model.head.weight.device, max(map(len, prompts))
    padded = [[tokenizer.end_of_text] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    settings = GenerationConfig(
        max_new_tokens=max(limits),
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
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([_Sampler(requests, tokenizer.vocabulary, device)]),
                stopping_criteria=StoppingCriteriaList([_Stopper(requests, limits, tokenizer, longest)]),
            )
    finally:
        model.generation_config = own_settings
    new = output[:, longest:].tolist()
    return [
        _answer(request, prompt, ids[:limit], tokenizer)
        for request, prompt, ids, limit in zip(requests, prompts, new, limits, strict=True)
    ]


def prompt_ids(tokenizer: TransformersTokenizer, prompt: str) -> list[int]:
    """Return the ids of a prompt as the model expects it: one at least."""
    return [*tokenizer.start_ids, *tokenizer.encode(prompt)] or [tokenizer.end_of_text]


def _limit(request: kdtool.Request, prompt: int, context: int) -> int:
    if context and prompt >= context:
        raise kdtool.UsageError(
            f"the prompt of request {request.id} has {prompt} tokens; the model's context of {context} leaves no room"
        )
    return min(request.max_tokens, context - prompt) if context else request.max_tokens


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

    def __init__(self, requests: Sequence[kdtool.Request], vocabulary: int, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._drawn = [
            (row, request.temperature, torch.Generator(device).manual_seed(request.seed))
            for row, request in enumerate(requests)
            if request.temperature > 0
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

    def __init__(
        self, requests: Sequence[kdtool.Request], limits: list[int], tokenizer: TransformersTokenizer, prompt: int
    ) -> None:
        self._stops = [request.stop for request in requests]
        self._limits = limits
        self._tokenizer = tokenizer
        self._prompt = prompt
        # Every token stands for at least one byte, so a stop string that just ended lies in that many tokens.
        self._tails = [max((len(stop.encode()) for stop in request.stop), default=0) + 1 for request in requests]

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        new = input_ids[:, self._prompt :].tolist()
        done = [
            len(ids) >= limit or self._stopped(ids[-tail:], stops)
            for ids, limit, tail, stops in zip(new, self._limits, self._tails, self._stops, strict=True)
        ]
        return torch.tensor(done, device=input_ids.device)

    def _stopped(self, tail: list[int], stops: tuple[str, ...]) -> bool:
        if not stops:
            return False
        text = self._tokenizer.decode(tail)
        return any(stop in text for stop in stops)
