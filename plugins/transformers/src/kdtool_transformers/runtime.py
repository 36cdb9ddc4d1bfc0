"""An opened model for measurement: log-likelihoods of texts, and answers to prompts.

Evaluators, servers and teachers' text answers use it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import kdtool
import torch
from kdtool_torch import eval_mode, score_texts, widen

from kdtool_transformers.attention import CausalModel
from kdtool_transformers.generation import answer_requests, capacity_of, generate
from kdtool_transformers.prompts import Infilling

_LONGEST_WINDOW = 2048


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

    @property
    def infilling(self) -> Infilling | None:
        """The FIM tokens of the vocabulary; None if it has none."""
        return self._require_open().tokenizer.infilling

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Yield each text's log-likelihood, in order; the first token is predicted from the `scoring_context`."""
        model = self._require_open()
        yield from score_texts(model, texts, self.window, model.tokenizer.encode_batch, self._autocast)

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Answer requests by greedy decoding (temperature 0) or sampling; those of similar length together.

        One whose prompt leaves no room in the context is "refused".
        """
        model = self._require_open()
        capacity = capacity_of(model.model, model.head.weight.device)
        yield from answer_requests(requests, model.tokenizer, self.context, self._generate, capacity)

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

    def _autocast(self) -> AbstractContextManager[Any]:
        weight = self._require_open().head.weight
        if self.compute is None or self.compute == weight.dtype:
            return nullcontext()
        return torch.autocast(weight.device.type, self.compute)
