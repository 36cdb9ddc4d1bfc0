"""A transformers causal language model as kdtool's `LanguageModel`: facts, head, backbone, files.

Built by `open_model` and by student plugins; used by trainers, teachers and evaluators. It computes final states at
labelled positions and nothing of the size of the vocabulary. Outlines are models without memory for their weights, for the
check of recipes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import InitVar, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool
import torch
from kdtool_torch import Documents, give_usual_mode, isolated_rng, select_at_labels, widen
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from kdtool_transformers.attention import (
    CausalModel,
    causal_of,
    context_of,
    decoder_layers,
    document_masks_skipped,
    has_document_attention,
    use_document_attention,
)
from kdtool_transformers.tokenizer import TransformersTokenizer
from kdtool_transformers.weights import forget_beyond, no_progress_bar

if TYPE_CHECKING:
    from kdtool_torch.estimates import ActivationMemory

_RECURRENT = {"linear_attention", "conv", "mamba", "mamba2", "recurrent", "hybrid"}
"""Kinds of layers whose state passes from token to token, and from one document of a row to the next."""
_FILE_SIZE = "2GB"
"""A GPU's weights are copied to main memory one file at a time, and one larger than main memory cannot be mapped."""
ORIGIN_FILE = "kdtool.json"
"""Next to config.json: facts that weights do not contain, such as the layers that they were copied from."""


@dataclass(frozen=True, eq=False)
class TransformersFacts(kdtool.ModelFacts):
    """Shapes of a model of transformers, which know the configuration that they follow from.

    `config` is not a field: it is neither compared nor stored with the others, but `dataclasses.replace` hands it on.
    """

    config: InitVar[Any] = None

    def __post_init__(self, config: Any) -> None:
        object.__setattr__(self, "config", config)

    @property
    def configuration(self) -> Any:
        """The configuration of transformers; a student cut from a teacher derives its shapes from it."""
        return vars(self)["config"]


class TransformersModel(CausalModel):
    """A causal LM of transformers with its tokenizer.

    `model` is a `PreTrainedModel` with a language-model head; its attention is switched to kdtool's if possible.
    `copied_layers[i]` is the teacher's layer that layer i began as; it is written by `save` and read by `open_model`.
    `built_from` names the published model, or the folder, whose weights these are, and is written by `save`; `open_model`
    reads it as `base`, which is not written again: trained weights are no longer that model.
    """

    built_from = ""
    base = ""

    def __init__(self, model: Any, tokenizer: TransformersTokenizer, copied_layers: Sequence[int] = ()) -> None:
        rows = model.get_output_embeddings().weight.shape[0]
        if tokenizer.vocabulary > rows:
            raise kdtool.UsageError(
                f"the tokenizer has {tokenizer.vocabulary} tokens, but the head of {type(model).__name__} only {rows} rows: "
                "this tokenizer belongs to another model"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.copied_layers = tuple(copied_layers)
        use_document_attention(causal_of(model))

    @property
    def facts(self) -> TransformersFacts:
        """Shapes, counted from the model itself."""
        return facts_of(self.model, self.tokenizer, self.copied_layers)

    @property
    def head(self) -> kdtool.Head:
        """The head on the model's own parameters, with the scale and soft cap that some families apply to logits."""
        projection, config = self.model.get_output_embeddings(), self.model.config
        scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere multiplies, Granite divides
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        return kdtool.Head(
            weight=projection.weight,
            vocabulary=self.tokenizer.vocabulary,
            bias=getattr(projection, "bias", None),
            scale=scale,
            soft_cap=getattr(config, "final_logit_softcapping", None),
        )

    def backbone(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        """Run everything except the head; see `kdtool.LanguageModel.backbone`. Raises as `require_separate_documents`."""
        causal = causal_of(self.model)
        if _recurrent_kinds(causal) and bool((batch.document > 0).any()):
            require_separate_documents(causal)
        padding = batch.document < 0
        layers = want.layers if "hidden" in want.kinds else ()
        maps = frozenset(want.layers if "attentions" in want.kinds else ())
        projecting = frozenset(want.layers if "projections" in want.kinds else ())
        documents = Documents(batch.positions, batch.document, maps, projecting)
        with layer_outputs(causal, layers) as states:
            positions = batch.positions.masked_fill(padding, 0)
            last, routing = _final_states(causal, batch.input_ids, positions, documents, want.routing)
        attentions, projections = documents.stop_collecting()
        collected = [*attentions.values(), *chain.from_iterable(projections.values()), *routing]
        if (
            collected
            and last.requires_grad
            and any(getattr(m, "gradient_checkpointing", False) for m in causal.modules())
        ):
            _refuse_cut_gradients(collected)
        device = batch.input_ids.device  # a spread model leaves its states on its layers' devices
        return kdtool.ModelOutputs(
            last=select_at_labels(last.to(device), batch),
            hidden={layer: select_at_labels(states[layer].to(device), batch) for layer in layers},
            attentions={layer: weights.to(device) for layer, weights in attentions.items()},
            projections={
                layer: kdtool.Projections(*(heads.to(device) for heads in tensors))
                for layer, tensors in projections.items()
            },
            routing=_routing(causal, routing, batch) if want.routing else None,
        )

    def activation_memory(
        self, rows: int, length: int, dtype: torch.dtype, passes: int = 1, *, gpu: bool = False, flash: bool = False
    ) -> ActivationMemory:
        """Return what its activations take while a phase trains it; see `estimate_activation_memory`."""
        from kdtool_transformers.activation_memory import estimate_activation_memory

        return estimate_activation_memory(self, rows, length, dtype, passes, gpu=gpu, flash=flash)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[list[int]]:
        """Continue prompts with a cache of keys and values; see `kdtool.LanguageModel.generate`."""
        from kdtool_transformers.generation import continue_ids

        return continue_ids(self, prompts, limits, temperature, seeds, top_p)

    def open_runtime(self) -> kdtool.Runtime:
        """Return a runtime that computes as the caller does, under autocast or not; see `LanguageModel.open_runtime`."""
        from kdtool_transformers.runtime import TransformersRuntime

        return TransformersRuntime(self)

    def save(self, folder: Path) -> None:
        """Write safetensors, configuration and tokenizer; needs nothing of kdtool to be opened again.

        Raises:
            PluginError: transformers would open the tokenizer as another one.
        """
        folder.mkdir(parents=True, exist_ok=True)
        causal = causal_of(self.model)
        dtypes = {parameter.dtype for parameter in causal.parameters()}
        if len(dtypes) > 1 and all(dtype.is_floating_point for dtype in dtypes):
            # A phase leaves trained weights in float32 and frozen ones in their dtype: files must have one.
            widen(causal)
        ends = list(self.tokenizer.end_ids)  # so that others end answers there, too
        causal.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
        with no_progress_bar():
            causal.save_pretrained(folder, max_shard_size=_FILE_SIZE)
        for file in folder.glob("*.safetensors"):
            give_usual_mode(file)
        self.tokenizer.save(folder)
        origin = {"copied_layers": self.copied_layers, "built_from": self.built_from}
        if any(origin.values()):
            content = json.dumps({key: value for key, value in origin.items() if value})
            (folder / ORIGIN_FILE).write_text(content + "\n", encoding="utf-8")
        self._check_tokenizer(folder)

    def _check_tokenizer(self, folder: Path) -> None:
        # For some model types AutoTokenizer builds its own class regardless of tokenizer.json.
        opened = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        forget_beyond(opened, self.model.config.get_text_config().vocab_size)
        if TransformersTokenizer(opened).fingerprint != self.tokenizer.fingerprint:
            raise kdtool.PluginError(
                f"transformers opens the tokenizer saved in {folder} as {type(opened).__name__}, which gives other ids than "
                f"{type(self.tokenizer.inner).__name__}, the model's own class; take a model whose tokenizer is of "
                f"the class that transformers expects of {self.model.config.model_type}"
            )


def facts_of(
    model: Any, tokenizer: TransformersTokenizer | None, copied_layers: tuple[int, ...] = ()
) -> TransformersFacts:
    """Count a model, which may be on the meta device, by the values that its weights represent.

    Without a tokenizer the vocabulary is the configuration's.
    """
    config = causal_of(model).config.get_text_config()
    parameters = list(model.parameters())
    heads = int(config.num_attention_heads)
    return TransformersFacts(
        parameters=sum(_values(p) for p in parameters),
        trainable=sum(_values(p) for p in parameters if p.requires_grad),
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        feed_forward=int(_feed_forward(config)),
        vocabulary=config.vocab_size if tokenizer is None else tokenizer.vocabulary,
        context=context_of(model),
        dtype=str(parameters[0].dtype).removeprefix("torch."),
        tied=model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        tokenizer_fingerprint="" if tokenizer is None else tokenizer.fingerprint,
        copied_layers=copied_layers,
        head_size=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        experts=_experts(config),
        config=config,
    )


def require_separate_documents(causal: Any) -> None:
    """Refuse a causal LM whose documents in a row cannot be kept apart, by its configuration.

    Raises:
        UsageError: it has layers with a state, such as Mamba's in Granite 4.0 H.
    """
    kinds = _recurrent_kinds(causal)
    if kinds:
        raise kdtool.UsageError(
            f"{type(causal).__name__} has layers of the kind {', '.join(kinds)}, whose state passes from one document of a "
            "row to the next, but students, and teachers that offer logits or states, read several documents in a row: "
            "choose a model with attention only, such as the dense Granite 4.0; this one can still answer with text"
        )


def _recurrent_kinds(causal: Any) -> list[str]:
    return sorted(_RECURRENT.intersection(getattr(causal.config.get_text_config(), "layer_types", None) or ()))


def _values(parameter: nn.Parameter) -> int:
    packed = getattr(parameter, "quant_state", None)  # bitsandbytes keeps two values in a byte
    return parameter.numel() if packed is None else int(packed.shape.numel())


def _feed_forward(config: Any) -> int:
    for name in ("intermediate_size", "n_inner", "ffn_dim"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    return 4 * int(config.hidden_size)


def _experts(config: Any) -> int:
    """Return the experts of a layer of a family that transformers balances by its router logits, else 0."""
    names = ("num_local_experts", "num_experts", "n_routed_experts") if hasattr(config, "router_aux_loss_coef") else ()
    return next((int(count) for name in names if (count := getattr(config, name, None))), 0)


def _routing(causal: Any, logits: Sequence[Tensor], batch: kdtool.Batch) -> kdtool.Routing:
    shape, device = batch.input_ids.shape, batch.input_ids.device
    chosen = int(causal.config.get_text_config().num_experts_per_tok)
    return kdtool.Routing(tuple(each.to(device).view(*shape, each.shape[-1]) for each in logits), chosen)


def _final_states(
    causal: Any, input_ids: Tensor, positions: Tensor, documents: Documents, routing: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return final states, and the router logits of each layer with experts if asked for."""
    ours = has_document_attention(causal)
    if (documents.wanted or documents.projecting) and not ours:
        raise kdtool.PluginError(
            f"attention maps and projections of {type(causal).__name__} are not available: its attention cannot be replaced"
        )
    # A mask of four dimensions is handed on as it is: without one, transformers reads positions from the device.
    within = {"documents": documents, "attention_mask": input_ids.new_zeros((1, 1, 1, 1))} if ours else {}
    with document_masks_skipped() if ours else nullcontext():
        outputs = causal.base_model(
            input_ids=input_ids,
            position_ids=positions,
            use_cache=False,
            **within,
            **({"output_router_logits": True} if routing else {}),
        )
    return outputs.last_hidden_state, tuple(outputs.router_logits) if routing else ()


def _refuse_cut_gradients(collected: Sequence[Tensor]) -> None:
    if not all(tensor.requires_grad for tensor in collected):
        raise kdtool.PluginError(
            "attention maps, projections or router logits carry no gradient: activation checkpointing is reentrant; switch "
            "it on with use_reentrant=False"
        )


class AbsentTokenizer:
    """Placeholder for a tokenizer that is not on this machine, with the vocabulary size of the configuration."""

    fingerprint = ""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary


def without_weights(config: Any) -> Any:
    """Build the causal LM of a configuration on the meta device: all of its shapes, none of its memory."""
    with isolated_rng(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def outline_of(
    config: Any, tokenizer: TransformersTokenizer | None = None, copied_layers: Sequence[int] = ()
) -> TransformersModel:
    """Return a model without memory for its weights; without a tokenizer it is only good for estimates.

    `config` is a configuration, or the content of a published config.json; weights have its dtype, or float32.
    """
    if isinstance(config, Mapping):
        config = AutoConfig.for_model(**config)
    stand_in: Any = AbsentTokenizer(config.get_text_config().vocab_size)
    return TransformersModel(without_weights(config), tokenizer or stand_in, copied_layers)


@contextmanager
def layer_outputs(causal: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the outputs of decoder layers while the block runs; other passes run without hooks."""
    states: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    modules = decoder_layers(causal) if layers else ()
    hooks = [modules[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()
