"""A runtime for teachers that only have logits: no neural networks, or small ones on plain torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import kdtool

from kdtool_torch._batches import NO_LABEL
from kdtool_torch._exact import exact_head, exact_logits
from kdtool_torch._likelihood import log_likelihood

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LogitsRuntime"]

_ROWS = 512
"""Positions whose logits exist at once."""


class LogitsRuntime(kdtool.Runtime):
    """Scores texts and continues prompts by a teacher's logits: one text at a time, one signal for each new token.

    For a teacher that offers logits and reads texts of any length. `kdtool_open` returns it in one line. A model with a
    limited context or a costly pass needs its own runtime, which cuts texts into windows and keeps the
    states of the text it has read.
    """

    abilities = frozenset({"continue", "score"})

    def __init__(self, teacher: kdtool.Teacher, run: kdtool.RunInfo) -> None:
        self._teacher = teacher
        tokenizer = teacher.kdtool_tokenizer(run)
        if tokenizer is None:
            raise kdtool.UsageError(f"{type(teacher).__name__} has no tokenizer: return one from kdtool_tokenizer")
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> kdtool.Tokenizer:
        """The teacher's."""
        return self._tokenizer

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Yield the log-likelihood of each text, from logits in float32."""
        for text in texts:
            ids = self._tokenizer.encode(text)
            total = self._log_likelihood(ids) if ids else 0.0
            yield kdtool.LogLikelihood(total, len(ids), len(text.encode("utf-8")))

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Continue prompts: by the likeliest tokens at temperature 0, else by tokens drawn from the request's seed."""
        end = self._tokenizer.end_of_text
        for request in requests:
            ids = self._tokenizer.encode(request.prompt)
            prompt = [*self._tokenizer.missing_start(ids), *ids] or [end]
            new, text = list[int](), ""
            for token in self._continuation(prompt, request):
                new.append(token)
                text = self._tokenizer.decode(new)
                if token == end or any(stop in text for stop in request.stop):
                    break
            stops = [text.index(stop) for stop in request.stop if stop in text]
            ended = bool(stops) or new[-1:] == [end]
            answer = text[: min(stops, default=len(text))]
            yield kdtool.TextAnswer(request.id, answer, "stop" if ended else "length", len(prompt), len(new))

    def _log_likelihood(self, ids: Sequence[int]) -> float:
        import torch

        lazy = self._logits(self._tokenizer.scoring_context, ids)
        head, labels = exact_head(lazy.head), torch.tensor(ids, device=lazy.hidden.device)
        parts = zip(torch.split(lazy.hidden, _ROWS), torch.split(labels, _ROWS), strict=True)
        sums = [log_likelihood(exact_logits(head, states), labels).double().sum() for states, labels in parts]
        return float(torch.stack(sums).sum())

    def _continuation(self, prompt: Sequence[int], request: kdtool.Request) -> Iterator[int]:
        """Yield new tokens, as many as the request allows."""
        import torch

        ids, generator = list(prompt), torch.Generator().manual_seed(request.seed)
        for _ in range(request.max_tokens):
            lazy = self._logits(ids, [0])  # the label is not known yet, and logits do not depend on it
            logits: Tensor = exact_logits(lazy.head, lazy.hidden)[0].cpu()
            if request.temperature:
                odds = (logits / request.temperature).softmax(-1)
                ids.append(int(torch.multinomial(odds, 1, generator=generator)))
            else:
                ids.append(int(logits.argmax()))
            yield ids[-1]

    def _logits(self, before: Sequence[int], ids: Sequence[int]) -> kdtool.LazyLogits:
        """Return the logits that predict `ids` after `before`, which is one document."""
        import torch

        tokens = torch.tensor([[*before, *ids]])
        inputs, labels = tokens[:, :-1], tokens[:, 1:].clone()
        labels[:, : len(before) - 1] = NO_LABEL
        positions, document = torch.arange(inputs.shape[1])[None], torch.zeros_like(inputs, dtype=torch.int32)
        batch = kdtool.Batch(inputs, positions, labels, document, ("",))
        signal = self._teacher.kdtool_signal(batch, kdtool.SignalRequest(frozenset({"logits"})))
        if signal.lazy is None:
            raise kdtool.PluginError(f"{type(self._teacher).__name__} is opened by its logits, but signals none")
        return signal.lazy
