"""A teacher that is a causal language model: everything but where its weights come from.

Teacher plugins subclass `CausalTeacher` and say where (`locate`). Light: torch and transformers load in hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import kdtool

from kdtool_transformers._device import DtypeName, compute_dtype, pick_device
from kdtool_transformers._sources import Source, source_identity

if TYPE_CHECKING:
    import torch

    from kdtool_transformers._model import TransformersModel
    from kdtool_transformers._tokenizer import TransformersTokenizer

__all__ = ["CausalTeacher", "CausalTeacherConfig"]


class CausalTeacherConfig(kdtool.Config):
    """Settings that every teacher of this sort has."""

    dtype: DtypeName = "auto"
    """Precision of weights and computation. `auto`: bfloat16 where a short measurement finds it faster, else float32."""


class CausalTeacher(kdtool.Teacher):
    """A teacher on transformers: logits, hidden states, attention maps and text.

    Weights load when they are first needed, onto the device of the first batch, and stay until `kdtool_close`.
    """

    offers: frozenset[kdtool.Offer] = frozenset({"logits", "hidden", "attentions", "text"})
    config: CausalTeacherConfig

    def __init__(self, config: CausalTeacherConfig) -> None:
        super().__init__(config)
        self._model: TransformersModel | None = None
        self._tokenizer: TransformersTokenizer | None = None
        self._fingerprint = ""
        self._source: Source | None = None
        self._offline = False

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        """Say where the weights are, fetching or converting them if need be. Called once; `run` is None in bare calls."""
        raise NotImplementedError

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return self._opened_tokenizer(run)

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        return {"weights": self._identity(run), "dtype": str(self._dtype(pick_device())).removeprefix("torch.")}

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        from kdtool_transformers._open import open_facts

        place, revision = self._located(run)
        return open_facts(place, self._opened_tokenizer(run), revision=revision, offline=self._offline)

    def kdtool_estimate(self, run: kdtool.RunInfo, models: Mapping[str, kdtool.ModelFacts]) -> kdtool.Estimate:
        facts = self.kdtool_describe(run)
        device = pick_device()
        held = facts.parameters * self._dtype(device).itemsize
        on_host = device.type != "cuda"
        return kdtool.Estimate("teacher", host_bytes=held if on_host else 0, device_bytes=0 if on_host else held)

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.Want) -> kdtool.Signal:
        import torch

        model = self._opened(batch.input_ids.device)
        # Not inference_mode: autograd refuses to save its tensors for backward, and losses do save them.
        with torch.no_grad():
            outputs = model.backbone(batch, want)
            head = model.head
        lazy = None
        if "logits" in want.kinds:
            weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
            lazy = kdtool.LazyLogits(
                outputs.last, kdtool.Head(weight, head.vocabulary, bias, head.scale, head.soft_cap)
            )
        return kdtool.Signal(
            fingerprint=self._identity(None), lazy=lazy, hidden=outputs.hidden, attentions=outputs.attentions
        )

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        from kdtool_transformers._runtime import TransformersRuntime

        yield from TransformersRuntime(self._opened(pick_device())).answer(requests)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        from kdtool_transformers._runtime import TransformersRuntime

        if subject.role != "teacher":
            return None
        self._located(run)
        return TransformersRuntime(self._opened(pick_device()))

    def kdtool_close(self) -> None:
        self._model = None
        self._tokenizer = None

    def _located(self, run: kdtool.RunInfo | None) -> Source:
        if run is not None:
            self._offline = run.offline
        if self._source is None:
            self._source = self.locate(run)
        return self._source

    def _opened_tokenizer(self, run: kdtool.RunInfo | None) -> TransformersTokenizer:
        from kdtool_transformers._open import open_tokenizer

        place, revision = self._located(run)
        if self._tokenizer is None:
            self._tokenizer = open_tokenizer(place, revision=revision, offline=self._offline)
        return self._tokenizer

    def _identity(self, run: kdtool.RunInfo | None) -> str:
        source = self._located(run)
        if not self._fingerprint:
            self._fingerprint = source_identity(source, offline=self._offline)
        return self._fingerprint

    def _dtype(self, device: torch.device) -> torch.dtype:
        return compute_dtype(self.config.dtype, device)

    def _opened(self, device: torch.device) -> TransformersModel:
        from kdtool_transformers._open import open_model

        if self._model is None:
            place, revision = self._located(None)
            self._model = open_model(
                place, dtype=self._dtype(device), device=device, revision=revision, offline=self._offline
            )
            self._model.model.requires_grad_(False)
        elif self._model.head.weight.device != device:
            self._model.model.to(device)
        return self._model
