"""Graphs opened for measurement: ONNX Runtime computes answers and log-likelihoods.

A graph is a model of transformers here, so that the generation of transformers serves both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import kdtool
import numpy as np
import onnxruntime as ort
import torch
from kdtool_torch import log_likelihood, require_finite, windows
from kdtool_transformers import answer_requests, generate, open_tokenizer
from torch import Tensor
from transformers import AutoConfig, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

_LONGEST_WINDOW = 2048
"""Maximum tokens of context for scoring, as in kdtool_transformers."""


class OnnxRuntime(kdtool.Runtime):
    """Scores texts one at a time, and answers requests in batches, as a student of transformers does."""

    def __init__(self, folder: Path) -> None:
        self._graph = OnnxModel(folder)
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
                require_finite(logits.amax(-1), self._graph)
                total += float(log_likelihood(logits, ids[scored + 1 : stop + 1]).double().sum())
            yield kdtool.LogLikelihood(total, len(tokens), len(text.encode("utf-8")))

    def count(self, text: str) -> int:
        """Return how many tokens a text is."""
        return len(self._tokenizer.encode(text))

    def close(self) -> None:
        """Release the graph; safe to call twice."""
        self._graph.close()


_LAYERS = ".layers."
"""Part of the names of keys and values, such as `input.cache.layers.0.keys`; transformers 5.23 does not say `cache`."""
_CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""Name of the cache among a model's outputs; transformers 5.23 has the second one."""


class OnnxModel(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """Calls a graph that `write_graph` wrote."""

    def __init__(self, folder: Path) -> None:
        super().__init__(AutoConfig.from_pretrained(folder))
        self._session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        self._reads = {tensor.name: tensor for tensor in self._session.get_inputs()}
        self._writes = [tensor.name for tensor in self._session.get_outputs()]
        self._before, self._after = _beginning(self._reads), _beginning(self._writes)

    @property
    def device(self) -> torch.device:
        """The processor."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of logits and cache."""
        return torch.float32

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        cache: DynamicCache | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits of the tokens `input_ids` [B, T] after a cache, and the cache with them.

        The cache is given as `cache`, or as `past_key_values` by transformers 5.23.
        `attention_mask` [B, cached + T] is 0 for padding; None: there is none. `position_ids` [B, T] follow from it.
        """
        before = past_key_values if cache is None else cache
        layers = [] if before is None else [layer for layer in before.layers if layer.is_initialized]
        cached = layers[0].keys.shape[2] if layers else 0
        if attention_mask is None:
            attention_mask = torch.ones(len(input_ids), cached + input_ids.shape[1], dtype=torch.int64)
        if position_ids is None:
            position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, cached:]
        feed = {
            "input_ids": input_ids.numpy(),
            "attention_mask": attention_mask.to(torch.int64).numpy(),
            "position_ids": position_ids.numpy(),
            **self._cache(layers, len(input_ids)),
        }
        outputs = self._session.run(None, {name: np.ascontiguousarray(feed[name]) for name in self._reads})
        written = dict(zip(self._writes, map(torch.from_numpy, outputs), strict=True))
        count = sum(name.startswith(self._after) for name in written) // 2
        after = DynamicCache(
            [(written[f"{self._after}{layer}.keys"], written[f"{self._after}{layer}.values"]) for layer in range(count)]
        )
        return CausalLMOutputWithPast(logits=written["logits"], **{_CACHE: after})

    def close(self) -> None:
        """Release the graph and its weights."""
        self._session = None

    def _cache(self, layers: list[Any], texts: int) -> dict[str, Any]:
        """Return keys and values by their names in the graph; without tokens at the beginning of a text."""
        if layers:
            return {
                f"{self._before}{at}.{part}": getattr(layer, part).numpy()
                for at, layer in enumerate(layers)
                for part in ("keys", "values")
            }
        caches = [tensor for name, tensor in self._reads.items() if name.startswith(self._before)]
        return {
            tensor.name: np.zeros((texts, int(tensor.shape[1]), 0, int(tensor.shape[3])), dtype=np.float32)
            for tensor in caches  # the exporter may give sizes as text
        }


def _beginning(names: Iterable[str]) -> str:
    """Return the beginning that the names of all keys and values have in common."""
    name = next(name for name in names if _LAYERS in name)
    return name[: name.index(_LAYERS) + len(_LAYERS)]
