"""An opened model for measurement: log-likelihoods of texts, and answers to prompts.

Evaluators, servers and teachers' text answers use it. Windows of similar length share a batch, and the head is projected in
chunks, so that nothing of size texts × length × vocabulary exists.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, islice
from typing import Any, TypeVar

import kdtool
import torch
from kdtool_torch import Window, eval_mode, exact_head, exact_logits, log_likelihood, widen, windows
from torch import Tensor

from kdtool_transformers._causal import CausalModel
from kdtool_transformers._generate import answer_requests, generate

__all__ = ["TransformersRuntime"]

T = TypeVar("T")

_LONGEST_WINDOW = 2048
_BATCH_TOKENS = 8192
_TEXTS_AT_ONCE = 64
_HEAD_ROWS = 512


class TransformersRuntime(kdtool.Runtime):
    """Scores and answers by a `CausalModel`. `context` is the greatest number of tokens it reads; 0: not known.

    `compute` is the dtype of autocast, None to compute in the weights' own. `window` tokens of context at most (2048 or
    the model's context): longer texts are cut into windows that advance by half, and each token is scored once, in the
    first window that holds it, with at least half a window of context before it. `unload` releases the model
    where it was opened. It infills if the tokenizer has FIM tokens.
    """

    model: CausalModel | None

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
        if model.tokenizer.infilling is not None:
            self.abilities = self.abilities | {"infill"}

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Yield each text's log-likelihood, in order; the first token is predicted from the `scoring_context`."""
        model = self._require_open()
        tokenizer, head = model.tokenizer, exact_head(model.head)
        context = tokenizer.scoring_context
        for group in _groups(texts, _TEXTS_AT_ONCE):
            ids = [[*context, *tokens_of_text] for tokens_of_text in tokenizer.encode_batch(group)]
            totals = [0.0] * len(group)
            for batch in self._batches(ids, len(context)):
                rows = [(ids[text], window) for text, window in batch]
                for (text, _), value in zip(batch, self._log_likelihoods(rows, head), strict=True):
                    totals[text] += value
            for read, tokens, total in zip(group, ids, totals, strict=True):
                count = len(tokens) - len(context)
                yield kdtool.LogLikelihood(log_likelihood=total, tokens=count, bytes=len(read.encode("utf-8")))

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Answer requests by greedy decoding (temperature 0) or sampling; those of similar length together.

        One whose prompt leaves no room in the context is "refused".
        """
        tokenizer = self._require_open().tokenizer
        yield from answer_requests(requests, tokenizer, self.context, self._generate)

    @contextmanager
    def passes(self) -> Iterator[CausalModel]:
        """Yield the model for forward passes like those of its answers: without dropout and gradients."""
        model = self._require_open()
        with eval_mode(model.model), self._autocast():
            yield model

    def memory(self) -> int:
        """Return the bytes of weights and buffers."""
        model = self._require_open().model
        return sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))

    def count(self, text: str) -> int:
        """Return how many tokens a text is."""
        return len(self._require_open().tokenizer.encode(text))

    def close(self) -> None:
        """Release the model."""
        self.model = None

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

    def _batches(self, ids: list[list[int]], before: int) -> Iterator[list[tuple[int, Window]]]:
        """Group windows of similar length so that a padded batch has about `_BATCH_TOKENS` tokens.

        Each goes with the number of its text. The first `before` tokens of a text are not scored.
        """
        parts = [
            (text, window)
            for text, tokens in enumerate(ids)
            for window in windows(len(tokens) - 1, self.window, before - 1)
        ]
        parts.sort(key=lambda part: part[1].start - part[1].stop)
        while parts:
            count = max(1, _BATCH_TOKENS // (parts[0][1].stop - parts[0][1].start))
            yield parts[:count]
            parts = parts[count:]

    def _log_likelihoods(self, rows: list[tuple[list[int], Window]], head: kdtool.Head) -> list[float]:
        """Return each window's part of the log-likelihood of its text."""
        model = self._require_open()
        with eval_mode(model.model), self._autocast():
            batch = _pad(rows).to(model.head.weight.device)
            document = torch.where(batch[2] >= 0, 0, -1).to(torch.int32)
            last = model.backbone(
                kdtool.Batch(batch[0], batch[2].clamp(min=0), batch[1], document, ("",) * len(rows)),
                kdtool.SignalRequest(),
            ).last
            targets = batch[1][batch[1] != -100]
            likelihoods = [
                log_likelihood(exact_logits(head, states), target)
                for states, target in zip(torch.split(last, _HEAD_ROWS), torch.split(targets, _HEAD_ROWS), strict=True)
            ]
        counts = [window.stop - window.scored for _, window in rows]
        values = torch.split(torch.cat(likelihoods).double().cpu(), counts)
        return [float(value.sum()) for value in values]

    def _autocast(self) -> AbstractContextManager[Any]:
        weight = self._require_open().head.weight
        if self.compute is None or self.compute == weight.dtype:
            return nullcontext()
        return torch.autocast(weight.device.type, self.compute)


def _pad(rows: list[tuple[list[int], Window]]) -> Tensor:
    """Return inputs, labels (-100 for no label) and positions (-1 on padding), stacked: [3, B, L]."""
    length = max(window.stop - window.start for _, window in rows)
    padded = []
    for tokens, (start, scored, stop) in rows:
        padding = length - (stop - start)
        inputs = tokens[start:stop] + [0] * padding
        labels = [-100] * (scored - start) + tokens[scored + 1 : stop + 1] + [-100] * padding
        padded.append([inputs, labels, [*range(stop - start), *[-1] * padding]])
    return torch.tensor(padded).transpose(0, 1)


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
