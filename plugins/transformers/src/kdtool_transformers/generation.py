"""New tokens after prompts, by `model.generate`: text that a student writes during training, and answers to requests.

`TransformersModel.generate` calls `continue_ids`. Requests are answered by `kdtool_transformers.streaming`, whose rows join
and leave, and which ends answers by the rules of this file. `generate` is for ONNX, and for recurrent states.

As many texts are generated at once as the device's memory holds. On a CPU a batch is bounded by tokens, or by a gigabyte of
keys and values, whichever is more. On a GPU, where one token of one text leaves almost all of the device idle, it is bounded
by free memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

import kdtool
import torch
from kdtool_torch import Sampler, choose, eval_mode, free_gpu_bytes, require_finite
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from kdtool_transformers.attention import CausalModel, causal_of, context_of
from kdtool_transformers.prompts import trim_suffix
from kdtool_transformers.tokenizer import TransformersTokenizer


@dataclass(frozen=True)
class Capacity:
    """Limits of a batch: `most` texts, and `memory` that a text of n tokens uses n · `token` + `text` of.

    The unit is bytes on a GPU; on a CPU it is tokens, and the defaults apply.
    """

    most: int = 32
    memory: int = 16384
    token: int = 1
    text: int = 0

    def texts(self, tokens: int) -> int:
        """Return how many texts of at most this number of tokens, prompt and answer, fit; at least one."""
        return max(1, min(self.most, self.memory // (max(1, tokens) * self.token + self.text)))


_ON_CPU = Capacity()
_BATCHES_SORTED = 2
"""Requests that are sorted by length together, in batches."""
_NO_TOKEN = -1


class _Text(NamedTuple):
    """A prompt, and how to continue it by at most `limit` tokens."""

    prompt: Sequence[int]
    limit: int
    sampler: Sampler
    ends: tuple[int, ...]
    stop: tuple[str, ...] = ()


def generate(
    model: Any, tokenizer: TransformersTokenizer, device: torch.device, requests: Sequence[kdtool.Request]
) -> list[kdtool.TextAnswer]:
    """Answer requests in one batch, in order, by a model with `generate` that reads tokens on a device. No gradient.

    An answer ends before its first stop string, at one of the `end_ids` ("stop"), or after `max_tokens` or the model's
    context ("length").

    Raises:
        UsageError: a prompt fills the whole context.
    """
    context = context_of(model)
    prompts = [prompt_ids(tokenizer, request) for request in requests]
    texts = [
        _Text(
            prompt,
            _limit(f"the prompt of request {request.id}", request.max_tokens, len(prompt), context),
            Sampler.of(request, device),
            end_ids(tokenizer, request),
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
    top_p: float = 1.0,
) -> list[list[int]]:
    """Continue prompts, those of similar length together; see `kdtool.LanguageModel.generate`."""
    model, tokenizer, device = language_model.model, language_model.tokenizer, language_model.head.weight.device
    context = context_of(model)
    texts = [
        _Text(
            prompt,
            _limit(f"prompt {number}", limit, len(prompt), context),
            Sampler(temperature, seed, device, top_p=top_p),
            tokenizer.end_ids,
        )
        for number, (prompt, limit, seed) in enumerate(zip(prompts, limits, seeds, strict=True))
    ]
    by_number: dict[int, list[int]] = {}
    for numbers in together([len(text.prompt) + text.limit for text in texts], capacity_of(model, device)):
        new = _continue(model, tokenizer, device, [texts[number] for number in numbers])
        by_number.update(zip(numbers, new, strict=True))
    return [by_number[number] for number in range(len(texts))]


def answer_requests(
    requests: Iterable[kdtool.Request],
    tokenizer: TransformersTokenizer,
    context: int,
    generate_batch: Callable[[list[kdtool.Request]], list[kdtool.TextAnswer]],
    capacity: Capacity = _ON_CPU,
) -> Iterator[kdtool.TextAnswer]:
    """Answer requests, those of similar length together; one whose prompt leaves no room in the context is "refused".

    `context` is the greatest number of tokens that the model reads; 0: not known. `capacity` limits a batch.
    """
    waiting = iter(requests)
    while group := list(islice(waiting, _BATCHES_SORTED * capacity.most)):
        lengths = [len(prompt_ids(tokenizer, request)) for request in group]
        fitting = []
        for request, length in zip(group, lengths, strict=True):
            if context and length >= context:
                yield kdtool.TextAnswer(request.id, "", "refused", length, 0)
            else:
                fitting.append((request, length + request.max_tokens))
        for numbers in together([min(size, context) if context else size for _, size in fitting], capacity):
            yield from generate_batch([fitting[number][0] for number in numbers])


def together(sizes: Sequence[int], capacity: Capacity) -> Iterator[list[int]]:
    """Group texts of these sizes in tokens, by number, longest first: this limits padding and the batch's cache."""
    order = sorted(range(len(sizes)), key=lambda number: -sizes[number])
    while order:
        count = capacity.texts(sizes[order[0]])
        yield order[:count]
        order = order[count:]


def _continue(
    model: Any, tokenizer: TransformersTokenizer, device: torch.device, texts: Sequence[_Text]
) -> list[list[int]]:
    """Return the new tokens of each text, up to the first that ends it, or to its limit."""
    longest = max(len(text.prompt) for text in texts)
    context = context_of(model)
    if len(texts) > 1 and 0 < context < longest + max(text.limit for text in texts) and not _rotates(model):
        # An ended text is extended until all have ended, and a table of positions ends with the context.
        return [ids for text in texts for ids in _continue(model, tokenizer, device, [text])]
    padded = [[tokenizer.end_of_text] * (longest - len(text.prompt)) + list(text.prompt) for text in texts]
    mask = [[0] * (longest - len(text.prompt)) + [1] * len(text.prompt) for text in texts]
    settings = GenerationConfig(
        max_new_tokens=max(text.limit for text in texts),
        do_sample=False,
        use_cache=True,  # training may have switched it off in the configuration
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
                logits_processor=LogitsProcessorList([_Chooser(texts, tokenizer.vocabulary, model)]),
                stopping_criteria=StoppingCriteriaList([_Stopper(texts, tokenizer, longest, device)]),
            )
    finally:
        model.generation_config = own_settings
    new = output[:, longest:].tolist()
    return [_cut(ids[: text.limit], text.ends) for ids, text in zip(new, texts, strict=True)]


def _rotates(model: Any) -> bool:
    """Return whether positions are angles, which are unlimited, rather than rows of a table."""
    return any(name.startswith("rope") for name in causal_of(model).config.get_text_config().to_dict())


def _cut(ids: list[int], ends: Sequence[int]) -> list[int]:
    ended = next((at for at, token in enumerate(ids) if token in ends), len(ids))
    return ids[: ended + 1]


def prompt_ids(tokenizer: TransformersTokenizer, request: kdtool.Request) -> list[int]:
    """Return the ids of a request's prompt as the model expects it, one at least; its own `ids` as they are.

    Raises:
        UsageError: the request has turns, and the tokenizer has no template or its template refuses them; or it has a
            suffix, and the tokenizer has no FIM tokens.
    """
    if request.ids:
        return list(request.ids)
    if request.turns and request.suffix is not None:
        raise kdtool.UsageError(
            f"request {request.id} has both turns and a suffix, but infilling works in code, not in a conversation: leave "
            "one of them out"
        )
    if request.turns:
        return tokenizer.encode_prompt(request.turns, request.prompt)
    if request.suffix is None:
        fim = tokenizer.infilling
        encode = tokenizer.encode_template if fim is not None and fim.writes(request.prompt) else tokenizer.encode
        ids = encode(request.prompt)
    else:
        ids = tokenizer.encode_infilling_prompt(request.prompt, request.suffix)
    return [*tokenizer.missing_start(ids), *ids] or [tokenizer.end_of_text]


def end_ids(tokenizer: TransformersTokenizer, request: kdtool.Request) -> tuple[int, ...]:
    """Return the ids at which the answer to a request ends."""
    return tokenizer.end_ids if request.suffix is None else tokenizer.infilling_ends


def text_behind(tokenizer: TransformersTokenizer, prompt: list[int], ids: list[int]) -> str:
    """Return the text of `ids` after a prompt."""
    # Some tokenizers drop a leading space of the text that they decode; decoding after the prompt keeps it.
    before, whole = tokenizer.decode(prompt), tokenizer.decode(prompt + ids)
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(ids)


def finish_text(text: str, request: kdtool.Request, ended: bool) -> tuple[str, Literal["stop", "length"]]:
    """Return the answer in the whole generated text, and the reason of its end; `ended`: at an end token."""
    stops = [at for stop in request.stop if (at := text.find(stop)) >= 0]
    finish: Literal["stop", "length"] = "stop" if stops or ended else "length"
    text = text[: min(stops, default=len(text))]
    return trim_suffix(text, request.suffix or "", cut=finish == "length"), finish


def _limit(what: str, limit: int, prompt: int, context: int) -> int:
    if context and prompt >= context:
        raise kdtool.UsageError(f"{what} has {prompt} tokens; the model's context of {context} leaves no room")
    return min(limit, context - prompt) if context else limit


def _answer(
    request: kdtool.Request, prompt: list[int], ids: list[int], tokenizer: TransformersTokenizer
) -> kdtool.TextAnswer:
    ended = bool(ids) and ids[-1] in end_ids(tokenizer, request)
    new = ids[: len(ids) - ended]
    text, finish = finish_text(text_behind(tokenizer, prompt, new), request, ended)
    return kdtool.TextAnswer(id=request.id, text=text, finish=finish, tokens_in=len(prompt), tokens_out=len(new))


class _Chooser:
    """Turns the greatest logit of each row into its next token."""

    def __init__(self, texts: Sequence[_Text], vocabulary: int, model: Any) -> None:
        self._samplers = [text.sampler for text in texts]
        self._vocabulary, self._model = vocabulary, model

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = choose(scores, self._samplers, self._vocabulary)
        require_finite(chosen.amax(-1), self._model)
        return chosen


class _Stopper:
    """Ends a row at its own limit of tokens, at a token that ends it, or once a stop string appeared.

    Limits and ending tokens are compared on the device. Only the last tokens of rows with stop strings are read from it.
    """

    def __init__(
        self, texts: Sequence[_Text], tokenizer: TransformersTokenizer, prompt: int, device: torch.device
    ) -> None:
        self._texts, self._tokenizer, self._prompt = texts, tokenizer, prompt
        self._limits = torch.tensor([text.limit for text in texts], device=device)
        most = max(len(text.ends) for text in texts)
        self._ends = torch.tensor(
            [[*text.ends, *[_NO_TOKEN] * (most - len(text.ends))] for text in texts], device=device
        )
        # Every token stands for at least one byte, so a stop string that just ended is within that many tokens.
        self._tails = {
            row: max(len(stop.encode()) for stop in text.stop) + 1 for row, text in enumerate(texts) if text.stop
        }

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        done = (self._limits <= input_ids.shape[1] - self._prompt) | (input_ids[:, -1:] == self._ends).any(-1)
        if self._tails and (stopped := self._find_stopped(input_ids)):
            done[stopped] = True
        return done

    def _find_stopped(self, input_ids: Tensor) -> list[int]:
        """Return the rows in which a stop string appeared; ended rows are not looked at again."""
        length, rows = input_ids.shape[1] - self._prompt, list(self._tails)
        ids_by_row = input_ids[rows, -min(length, max(self._tails.values())) :].tolist()
        stopped = []
        for row, ids in zip(rows, ids_by_row, strict=True):
            text = self._texts[row]
            if ids[-1] in text.ends or length >= text.limit:
                del self._tails[row]
            elif self._has_stop(ids[-self._tails[row] :], text.stop):
                del self._tails[row]
                stopped.append(row)
        return stopped

    def _has_stop(self, tail: list[int], stops: tuple[str, ...]) -> bool:
        text = self._tokenizer.decode(tail)
        return any(stop in text for stop in stops)


_CPU_BYTES = 2**30
"""Bytes of keys and values from which a larger batch on a CPU costs memory more than it saves time."""
_MOST_ON_GPU = 512
"""Texts at once on a GPU: beyond it a step takes longer in proportion."""
_LOGITS_PER_TEXT = 8
"""Float32 tensors of a text's logits that exist while its next token is drawn, sorting included."""


def capacity_of(model: Any, device: torch.device) -> Capacity:
    """Return the limits for a model of transformers, on a GPU by the memory that it has free now."""
    free, weight = free_gpu_bytes(device), model.get_output_embeddings().weight
    config, itemsize = causal_of(model).config.get_text_config(), weight.dtype.itemsize
    return cpu_capacity(config, itemsize) if free is None else gpu_capacity(config, itemsize, len(weight), free)


def cpu_capacity(config: Any, itemsize: int) -> Capacity:
    """Return the limits for a configuration of transformers on a CPU; `kdtool_measuring.bytes_to_answer` forecasts them."""
    return Capacity(memory=max(Capacity.memory, _CPU_BYTES // (itemsize * _keys_and_values(config))))


def gpu_capacity(config: Any, itemsize: int, vocabulary: int, free: int) -> Capacity:
    """Return the limits for a configuration of transformers on a GPU with `free` bytes.

    Half of the memory is left to attention masks and fragments. The rest is rounded down to a power of two: batches, and
    with them the rounding of sums, should not depend on a few megabytes.
    """
    feed_forward = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    activations = 4 * config.hidden_size + 3 * feed_forward  # of one layer, while prompts are read
    memory = 1 << max(0, (free // 2).bit_length() - 1)
    token = itemsize * (_keys_and_values(config) + activations)
    return Capacity(_MOST_ON_GPU, memory, token, 4 * _LOGITS_PER_TEXT * vocabulary)


def _keys_and_values(config: Any) -> int:
    """Return how many numbers are kept for a token: one layer's are copied to grow."""
    queries = getattr(config, "num_attention_heads", 0) or 1  # a recurrent model has none
    heads = getattr(config, "num_key_value_heads", None) or queries
    head_size = getattr(config, "head_dim", None) or config.hidden_size // queries
    return int(2 * heads * head_size * (config.num_hidden_layers + 1))
