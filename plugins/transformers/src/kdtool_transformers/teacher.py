"""A teacher that is a causal language model: everything except the source of its weights.

Teacher plugins subclass `CausalTeacher`, return that source (`hub_source` or `locate`), and may format prompts
(`render_prompt`). Those for a family whose models are known before anything is fetched subclass `PublishedTeacher`, and name
the model of the family (`hub_name`). Light: torch and transformers load in hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import kdtool
import pydantic
from kdtool_torch import DeviceName, DtypeName, compute_dtype, devices_here, named_device, pick_device

from kdtool_transformers.prompts import FimTokens
from kdtool_transformers.sources import LocatedWeights, Source, source_identity
from kdtool_transformers.weights import Quantisation, missing_quantiser

if TYPE_CHECKING:
    import torch

    from kdtool_transformers.model import TransformersModel


class CausalTeacherConfig(kdtool.Config):
    """Settings that every teacher of this sort has."""

    dtype: DtypeName = "auto"
    """Precision of weights and computation. `auto`: bfloat16 if a short measurement finds it faster, else float32."""

    quantise: Quantisation | None = None
    """Keep the weights of linear layers in 4 bits (`nf4`) or 8 (`int8`), by bitsandbytes. None: keep `dtype`."""
    device_map: Literal["auto"] | None = None
    """`auto`: spread over the GPUs, then main memory, then disk, by accelerate. None: one device."""
    device: DeviceName | None = kdtool.Field(default=None, json_schema_extra=kdtool.does_not_affect_results())
    """Device: `cpu`, `cuda`, `cuda:1` or `mps`. None: that of the student. With several processes, each has its own teacher
    there."""
    sharding: Literal["off", "full"] = kdtool.Field(default="off", json_schema_extra=kdtool.does_not_affect_results())
    """`full`: while several processes train, each holds its part of the teacher's layers, which are gathered as they run.
    Without effect in one process, and while the teacher is measured or answers."""
    adapter: kdtool.RecipePathOrName | None = kdtool.Field(default=None, min_length=1)
    """A folder with a PEFT adapter on top of the weights. None: none."""
    fim_tokens: FimTokens | None = None
    """Three special tokens that the model does not use, renamed to `<spm_prefix>`, `<spm_suffix>` and `<spm_middle>`. They
    mean nothing until a phase trains the teacher on rows with `fim`. None: the tokenizer's own FIM tokens, if any."""

    @pydantic.model_validator(mode="after")
    def _one_place(self) -> CausalTeacherConfig:
        if self.device is not None and self.device_map is not None:
            raise ValueError("device puts the model on one device, device_map spreads it: give only one of them")
        if self.sharding == "full" and (self.quantise or self.device_map or self.device):
            raise ValueError("sharding: full divides unquantised weights: leave quantise, device_map and device out")
        return self


class CausalTeacher(LocatedWeights, kdtool.Teacher):
    """A teacher on transformers: logits, hidden states, attention maps, projections and text.

    Weights load when they are first needed, onto the device of the first batch, and stay until `kdtool_close`; their
    precision does not depend on the batch. It can be trained: `kdtool_load_weights` names the folder they come from
    afterwards.
    """

    offers: frozenset[kdtool.SignalKind] = frozenset(
        {"logits", "chosen", "hidden", "attentions", "projections", "text"}
    )
    config: CausalTeacherConfig

    def __init__(self, config: CausalTeacherConfig) -> None:
        super().__init__(config)
        self.fim_tokens = config.fim_tokens
        self._model: TransformersModel | None = None
        self._divided = self._checked = False
        self._head_beside: kdtool.Head | None = None
        self._outline: TransformersModel | None = None
        self._fingerprint = ""
        self._adapted: Path | None = None

    def render_prompt(self, prompt: str) -> str:
        """Render a prompt in the model's format."""
        return prompt

    def render(self, request: kdtool.Request) -> kdtool.Request:
        """Render a request of `kdtool_answer` in the model's format; one with a suffix is code, and stays as it is."""
        return request if request.suffix is not None else replace(request, prompt=self.render_prompt(request.prompt))

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> list[str]:
        if missing := missing_quantiser(self.config.quantise):
            return [missing]
        if self.config.sharding == "full" and run.implementing("kdtool_record"):
            return [
                "sharding: full needs processes that read rows together, but each records different rows; leave `signals` "
                "out, so that the teacher runs with the student, or set sharding: off"
            ]
        asked, here = self.config.device, devices_here()
        if asked is None or asked in here or (asked == "cuda" and "cuda:0" in here):
            return []
        return [f"device: {asked} does not exist; this machine has {', '.join(here)}"]

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return self.open_tokenizer(run)

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        return {
            "weights": self._identity(run),
            "dtype": str(self._dtype()).removeprefix("torch."),
            "tokenizer": self.open_tokenizer(run).identity,
        }

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return replace(self._shapes(run).facts, dtype=str(self._dtype()).removeprefix("torch."))

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_torch import gpu_bytes

        from kdtool_transformers.weights import held_bytes

        device, dtype = self._place(), self._dtype()
        shapes = self._shapes(run).model
        held = held_bytes(shapes, dtype, self.config.quantise)
        if self.config.sharding == "full" and run.world > 1:
            from kdtool_transformers.divided import divided_bytes

            held = min(held, divided_bytes(shapes, dtype, run.world))
        on_device = held if device.type == "cuda" else 0
        if self.config.device_map is not None:
            on_device = min(held, gpu_bytes())
        savings = []
        if dtype.itemsize > 2 and self.config.quantise is None:
            savings.append(kdtool.Saving({"dtype": "bfloat16"}, "the teacher's figures are rounded", True))
        if self.config.quantise is None:
            savings.append(kdtool.Saving({"quantise": "nf4"}, "the teacher's weights are rounded to 4 bits", True))
        note = f"in {self.config.quantise or str(dtype).removeprefix('torch.')}"
        note += f" on {self.config.device}" * (self.config.device is not None)
        yield kdtool.Estimate(
            "teacher", host_bytes=held - on_device, device_bytes=on_device, note=note, savings=tuple(savings)
        )
        yield from self.download_estimates(sum(weight.numel() for weight in shapes.parameters()))

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        import torch
        from kdtool_torch import chosen_tokens, move, self_check

        here = batch.input_ids.device
        model = self._open(here, divided=self._is_divided())
        if not self._checked:
            self_check(model)  # as the trainer does for the student: documents in a row must not see each other
            self._checked = True
        # Not inference_mode: autograd refuses to save its tensors for backward, and losses do save them.
        with torch.no_grad():
            outputs = move(model.backbone(move(batch, model.head.weight.device), want), here)
            lazy = kdtool.LazyLogits(outputs.last, self._head(model, here))
            chosen = chosen_tokens(lazy, want) if "chosen" in want.kinds else None
        return kdtool.Signal(
            fingerprint=self._identity(None),
            lazy=lazy if "logits" in want.kinds else None,
            chosen=chosen,
            hidden=outputs.hidden,
            attentions=outputs.attentions,
            projections=outputs.projections,
        )

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        from kdtool_transformers.runtime import TransformersRuntime

        runtime = TransformersRuntime(self._open())
        yield from runtime.answer(self.render(request) for request in requests)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        from kdtool_transformers.runtime import TransformersRuntime

        if subject.role != "teacher":
            return None
        self.find_weights(run)
        return TransformersRuntime(self._open(), unload=self._unload)

    def kdtool_trainable(self, run: kdtool.RunInfo) -> kdtool.Runtime:
        from kdtool_transformers.runtime import TransformersRuntime

        self.find_weights(run)
        return TransformersRuntime(self._load(pick_device(), trainable=True))

    def kdtool_load_weights(self, run: kdtool.RunInfo, folder: Path | None) -> None:
        if folder != self._adapted:
            self._adapted, self._fingerprint = folder, ""
            self._unload()

    def _unload(self) -> None:
        self._model, self._head_beside, self._checked = None, None, False

    def kdtool_close(self) -> None:
        self._unload()
        self._tokenizer = None

    def _place(self, student: torch.device | None = None) -> torch.device:
        """Return the device to compute on: that of the settings, or the student's."""
        if self.config.device is not None:
            return named_device(self.config.device)
        return pick_device() if student is None else student

    def _head(self, model: TransformersModel, device: torch.device) -> kdtool.Head:
        """Return the head on `device`, copied there once: the trainer computes logits with it itself."""
        from kdtool_torch import move
        from kdtool_torch.numerics import detach_head

        if model.head.weight.device == device:
            return detach_head(model.head)
        if self._head_beside is None or self._head_beside.weight.device != device:
            self._head_beside = move(detach_head(model.head), device)
        return self._head_beside

    def _shapes(self, run: kdtool.RunInfo) -> TransformersModel:
        if self._outline is None:
            self._outline = self.outline(run)
        return self._outline

    def _identity(self, run: kdtool.RunInfo | None) -> str:
        from kdtool_transformers.weights import adapter_identity

        source = self.find_weights(run) if self._adapted is None else Source(self._adapted)
        if not self._fingerprint:
            weights = source_identity(source, offline=self._offline)
            if self._adapter is not None:
                weights = sha256(f"{weights} {adapter_identity(self._adapter)}".encode()).hexdigest()
            self._fingerprint = weights
        return self._fingerprint

    def _dtype(self) -> torch.dtype:
        """Return its precision: the same for all batches on this machine, since stored signals are named by it."""
        return compute_dtype(self.config.dtype, self._place())

    def _is_divided(self) -> bool:
        """Return whether its signals are computed with layers that are divided among processes."""
        if self.config.sharding == "off":
            return False
        from kdtool_transformers.divided import processes

        return processes() > 1

    def _open(self, student: torch.device | None = None, divided: bool = False) -> TransformersModel:
        """Return the model on its device. A spread, quantised or divided model stays where it was loaded."""
        device = self._place(student)
        if self._model is not None and self._divided != divided:
            self._unload()
        if self._model is None:
            self._model, self._divided = self._load(device, divided=divided), divided
            self._model.model.requires_grad_(False)
        there = self._model.head.weight.device
        movable = not (self.config.quantise or self.config.device_map or divided)
        if movable and (there.type != device.type or device.index not in (None, there.index)):
            self._model.model.to(device)
        return self._model

    def _load(self, device: torch.device, *, trainable: bool = False, divided: bool = False) -> TransformersModel:
        """Load the fine-tuned or the original model. A trainable model is unquantised and on one device."""
        from kdtool_transformers.opening import open_model

        location, revision = self.find_weights() if self._adapted is None else Source(self._adapted)
        model = open_model(
            location,
            dtype=self._dtype(),
            device=device,
            revision=revision,
            offline=self._offline,
            quantise=None if trainable else self.config.quantise,
            device_map=None if trainable else self.config.device_map,
            adapter=self._adapter,
            divided=divided,
        )
        model.tokenizer = self.open_tokenizer()
        return model

    @property
    def _adapter(self) -> Path | None:
        """The folder of its adapter; None if the model was fine-tuned with it, and its weights contain it."""
        adapter = self.config.adapter if self._adapted is None else None
        return None if adapter is None else Path(adapter).expanduser()


class PublishedTeacherConfig(CausalTeacherConfig):
    """Settings that every teacher of a known family has."""

    dtype: DtypeName = "bfloat16"
    """Precision of weights and computation. `auto`: bfloat16 if a short measurement finds it faster, else float32."""
    weights: kdtool.RecipePathOrName = kdtool.Field(default="auto", min_length=1)
    """`auto`: the published weights, from the local cache or the Hub. Or a folder, another Hub name, or a .gguf file."""


class PublishedTeacher(CausalTeacher):
    """A teacher of a known family. Described by its published configuration until its weights are downloaded."""

    config: PublishedTeacherConfig

    def hub_name(self) -> str:
        """Return the Hub name of the published model that the settings select."""
        raise NotImplementedError

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        return Source(self.hub_name()) if self.config.weights == "auto" else super().locate(run)

    def hub_source(self) -> tuple[str, str | None]:
        return (self.hub_name() if self.config.weights == "auto" else self.config.weights), None
