"""A graph opened for measurement: ONNX Runtime computes answers and log-likelihoods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import kdtool
import torch
from kdtool_torch import log_likelihood, windows
from kdtool_transformers import answer_requests, generate, open_tokenizer

from kdtool_exporter_onnx._model import OnnxModel

__all__ = ["OnnxRuntime"]

_LONGEST_WINDOW = 2048
"""Maximum tokens of context for scoring, as in kdtool_transformers."""


class OnnxRuntime(kdtool.Runtime):
    """Scores texts one at a time, and answers requests in batches, as a student of transformers does."""

    def __init__(self, folder: Path, threads: int | None) -> None:
        self._graph = OnnxModel(folder, threads)
        self._tokenizer = open_tokenizer(folder, offline=True)
        self.context = int(getattr(self._graph.config.get_text_config(), "max_position_embeddings", 0))

    @property
    def tokenizer(self) -> kdtool.Tokenizer:
        """The student's."""
        return self._tokenizer

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Answer requests by greedy decoding (temperature 0) or sampling; one without room in the context is "refused"."""
        device = torch.device("cpu")
        yield from answer_requests(
            requests, self._tokenizer, self.context, partial(generate, self._graph, self._tokenizer, device)
        )

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Yield each text's log-likelihood, in order; the first token is predicted from the `scoring_context`."""
        context = self._tokenizer.scoring_context
        window = min(_LONGEST_WINDOW, self.context or _LONGEST_WINDOW)
        for text, tokens in zip(texts, self._tokenizer.encode_batch(texts), strict=True):
            ids, total = torch.tensor([*context, *tokens]), 0.0
            for start, scored, stop in windows(len(ids) - 1, window, len(context) - 1):
                logits = self._graph(ids[None, start:stop]).logits[0, scored - start :, : self._tokenizer.vocabulary]
                total += float(log_likelihood(logits, ids[scored + 1 : stop + 1]).double().sum())
            yield kdtool.LogLikelihood(total, len(tokens), len(text.encode("utf-8")))

    def count(self, text: str) -> int:
        """Return how many tokens a text is."""
        return len(self._tokenizer.encode(text))

    def close(self) -> None:
        """Release the graph; safe to call twice."""
        self._graph.close()
