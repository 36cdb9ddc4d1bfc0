"""Parts of causal models, and what kdtool computes instead of transformers: attention over packed documents, experts.

Attention over rows that hold several documents is registered with transformers as "kdtool". `TransformersModel.backbone`
builds a `Documents` from a batch and hands it through the model's keyword arguments to `attend` in every layer, which also
works when a layer is computed a second time under activation checkpointing. Calls without it (generation, plain forwards)
go to transformers' own sdpa. On a CPU the row is cut into blocks of queries, each a batched matrix product with the keys its
documents reach: 2 to 3 times as fast as sdpa there. On CUDA in half precision PyTorch's variable-length flash attention
runs; elsewhere sdpa with a mask. `use_document_attention` chooses the models that use it.

Experts are computed in the precision of autocast, which does not know grouped products (issue 174763 of PyTorch): trained
experts would be multiplied in float32, since their weights are. Importing this module replaces transformers' grouped
products for all models of the process; without autocast nothing changes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from typing import Any, Literal, cast

import kdtool
import torch
import torch.nn.functional as F
from kdtool_torch import Block, Documents, has_flash, layers_among
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kdtool_transformers.tokenizer import TransformersTokenizer

IMPLEMENTATION = "kdtool"
"""The name under which transformers knows `attend`."""
_HALF = (torch.bfloat16, torch.float16)
_masks_skipped: ContextVar[bool] = ContextVar("kdtool_masks_skipped", default=False)
_replacement: ContextVar[Callable[..., Tensor] | None] = ContextVar("kdtool_attention", default=None)


# It follows each batch's documents: compiled, it would be recompiled for every batch.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: Documents | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend causally within documents; the signature is transformers' attention interface.

    `query` is [B, heads, L, D], `key` and `value` [B, kv_heads, L, D]. Returns ([B, L, heads, D], None).
    """
    if documents is None:
        return _attend_plainly(module, query, key, value, attention_mask, dropout, scaling, kwargs), None
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise kdtool.PluginError(
            f"{type(module).__name__} adds sinks or biases to its attention, which packed documents do not support yet; "
            "choose a model without them"
        )
    documents = documents.on(query.device)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window, soft_cap = kwargs.get("sliding_window"), kwargs.get("softcap")
    layer = getattr(module, "layer_idx", None)
    if layer in documents.projecting and documents.collecting:
        documents.projections[layer] = kdtool.Projections(*(_side_by_side(heads) for heads in (query, key, value)))
    if layer in documents.wanted:
        weights = _attention_map(query, key, documents.mask(window), scale, soft_cap)
        if documents.collecting:
            documents.attentions[layer] = weights
        mixed = F.dropout(weights, dropout) @ _repeat(value, query.shape[1])
        return mixed.transpose(1, 2), None
    query, key, value = (_in_autocast_dtype(states) for states in (query, key, value))
    attend_within = _replacement.get() or _attend_within
    return attend_within(documents, query, key, value, window, dropout, scale, soft_cap), None


@contextmanager
def replace_attention(attend_within: Callable[..., Tensor]) -> Iterator[None]:
    """Within the block, compute attention by another function, with the arguments and result of `_attend_within`."""
    token = _replacement.set(attend_within)
    try:
        yield
    finally:
        _replacement.reset(token)


def _attend_within(
    documents: Documents,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    dropout: float,
    scale: float,
    soft_cap: float | None,
) -> Tensor:
    """Return [B, L, heads, D] by the kernel that is fastest on this device."""
    kernel = choose_kernel(
        query.device.type,
        query.dtype,
        (query.shape[-1], value.shape[-1]),
        dropout=dropout,
        soft_cap=soft_cap,
        flash=query.is_cuda and has_flash(query.device),
    )
    if kernel == "blocks":
        return attend_in_blocks(query, key, value, documents.blocks(window), dropout, scale, soft_cap)
    if kernel == "flash":
        return _attend_with_flash(query, key, value, documents, scale, window)
    keys, values = (_repeat(states, query.shape[1]) for states in (key, value))
    mask = documents.mask(window)
    return F.scaled_dot_product_attention(query, keys, values, mask, dropout, scale=scale).transpose(1, 2)


def choose_kernel(
    device_type: str,
    dtype: torch.dtype,
    head_sizes: tuple[int, int],
    *,
    dropout: float,
    soft_cap: float | None,
    flash: bool,
) -> Literal["blocks", "flash", "sdpa"]:
    """Return the kernel that attends within documents: a pure function, so that it can be asked about any device.

    Args:
        device_type: "cpu", "cuda", …
        dtype: of queries, keys and values, which are alike.
        head_sizes: numbers of one head's queries and keys, and of its values.
        dropout: share of the attention weights that is zeroed; flash attention cannot.
        soft_cap: bound on the scores; only blocks know it.
        flash: the device and this build of PyTorch have flash attention for documents (`kdtool_torch.has_flash`).
    """
    if device_type == "cpu" or soft_cap is not None:
        return "blocks"
    size, value_size = head_sizes
    fits = size == value_size <= 256 and size % 8 == 0
    return "flash" if flash and fits and dtype in _HALF and dropout == 0 else "sdpa"


@contextmanager
def document_masks_skipped() -> Iterator[None]:
    """Within the block, transformers builds no mask for "kdtool": `Documents` have all the information."""
    token = _masks_skipped.set(True)
    try:
        yield
    finally:
        _masks_skipped.reset(token)


def use_document_attention(causal: Any) -> None:
    """Switch a causal LM to attention over packed documents if its family lets its attention be replaced.

    Others keep their own, which transformers masks by position ids; `self_check` finds those that it cannot.
    """
    kinds = set(getattr(causal.config, "layer_types", None) or ["full_attention"])
    if getattr(causal, "_supports_attention_backend", False) and kinds <= {"full_attention", "sliding_attention"}:
        causal.set_attn_implementation(IMPLEMENTATION)


def has_document_attention(causal: Any) -> bool:
    """Return whether `use_document_attention` switched a model."""
    return bool(causal.config._attn_implementation == IMPLEMENTATION)


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    return None if _masks_skipped.get() else sdpa_mask(*args, **kwargs)


def _attend_plainly(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    kwargs: dict[str, Any],
) -> Tensor:
    soft_cap = kwargs.get("softcap")
    if soft_cap is None:
        with _without_plans():
            mixed, _ = sdpa_attention_forward(
                module, query, key, value, mask, dropout=dropout, scaling=scaling, **kwargs
            )
        return cast("Tensor", mixed)
    if mask is None:
        rows, columns = query.shape[2], key.shape[2]
        mask = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(columns - rows)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = _attention_map(query, key, mask, scale, soft_cap)
    return (F.dropout(weights, dropout) @ _repeat(value, query.shape[1])).transpose(1, 2)


@contextmanager
def _without_plans() -> Iterator[None]:
    """Keep cuDNN's attention out of passes without gradients: it is planned again for each length, so for each new token."""
    unwanted = torch.backends.cuda.cudnn_sdp_enabled() and not torch.is_grad_enabled()  # type: ignore[no-untyped-call]
    if unwanted:
        torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        if unwanted:
            torch.backends.cuda.enable_cudnn_sdp(True)


def attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, blocks: list[Block], dropout: float, scale: float, soft_cap: float | None
) -> Tensor:
    """Return [B, L, heads, D], with attention computed for one block of queries after the other."""
    batch, kv_heads, heads, width = query.shape[0], key.shape[1], query.shape[1], query.shape[-1]
    group = heads // kv_heads
    query = (query * scale).view(batch, kv_heads, group, -1, width)
    outputs = []
    for start, stop, first, checked, hidden in blocks:
        rows = stop - start
        # Heads that share keys become more rows of one product: no copy of the keys.
        queries = query[:, :, :, start:stop].reshape(batch * kv_heads, group * rows, width)
        keys = key[:, :, first:stop].reshape(batch * kv_heads, stop - first, width)
        values = value[:, :, first:stop].reshape(batch * kv_heads, stop - first, -1)
        scores = torch.bmm(queries, keys.transpose(1, 2))
        if soft_cap is not None:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        scores = scores.view(batch, kv_heads, group, rows, stop - first)
        with torch.no_grad():  # the softmax gives hidden scores no gradient, so autograd need not know
            scores[..., checked - first :].masked_fill_(hidden, -torch.inf)
        weights = F.dropout(scores.softmax(-1), dropout).view(batch * kv_heads, group * rows, stop - first)
        mixed = torch.bmm(weights, values).view(batch, kv_heads * group, rows, -1)
        outputs.append(mixed.transpose(1, 2))
    return torch.cat(outputs, dim=1)


def _attention_map(query: Tensor, key: Tensor, mask: Tensor, scale: float, soft_cap: float | None) -> Tensor:
    scores = (query * scale) @ _repeat(key, query.shape[1]).transpose(2, 3)
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    # Finite, so that padding, which sees nothing, gives no NaN: 0 times NaN would spread.
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)


def _in_autocast_dtype(states: Tensor) -> Tensor:
    """Cast as autocast casts the operands of a product; it knows neither flash attention nor that keys are used again."""
    kind = states.device.type
    if not torch.is_autocast_enabled(kind) or states.dtype == torch.float64:
        return states
    return states.to(torch.get_autocast_dtype(kind))


def _side_by_side(heads: Tensor) -> Tensor:
    """Return [B, L, heads · D] of [B, heads, L, D]."""
    return heads.transpose(1, 2).flatten(2)


def _repeat(states: Tensor, heads: int) -> Tensor:
    return states if states.shape[1] == heads else states.repeat_interleave(heads // states.shape[1], dim=1)


def _attend_with_flash(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, scale: float, window: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    batch, heads, length, _ = query.shape
    bounds, longest = documents.lengths()
    queries, keys, values = (
        states.transpose(1, 2).reshape(batch * length, states.shape[1], -1) for states in (query, key, value)
    )
    # Before PyTorch 2.12, fewer heads of keys than of queries need not be announced.
    announced: dict[str, Any] = (
        {"enable_gqa": heads != key.shape[1]} if "enable_gqa" in signature(varlen_attn).parameters else {}
    )
    mixed = varlen_attn(
        queries,
        keys,
        values,
        bounds,
        bounds,
        longest,
        longest,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        **announced,
    )
    return cast("Tensor", mixed).view(batch, length, heads, -1)


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, _mask)


def compute_experts(experts: nn.Module, hidden: Tensor, *routing: Tensor) -> Tensor:
    """Return the experts' mixture for each token, computed by grouped products in autocast's dtype if that is on.

    Args:
        experts: a module of transformers that holds the weights of all experts of a layer.
        hidden: [N, H].
        routing: each token's experts and their shares, [N, K], as the module's `forward` takes them.

    Returns:
        [N, H], of the dtype of `hidden`.
    """
    kind = hidden.device.type
    seen: Any = _Cast(experts, torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else experts
    mixed: Tensor = grouped_mm_experts_forward(seen, hidden, *routing)
    return mixed


class _Cast:
    """A module of experts whose own float32 weights are in another dtype."""

    def __init__(self, experts: nn.Module, dtype: torch.dtype) -> None:
        self._experts, self._dtype = experts, dtype

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._experts, name)
        return value.to(self._dtype) if isinstance(value, Tensor) and value.dtype == torch.float32 else value


ALL_EXPERTS_FUNCTIONS["grouped_mm"] = compute_experts


class CausalModel(kdtool.LanguageModel):
    """A `PreTrainedModel` with a language-model head, and its tokenizer. `TransformersModel` is its only implementation."""

    model: Any
    tokenizer: TransformersTokenizer


def causal_of(model: Any) -> Any:
    """Return the causal LM itself, also if an adapter wraps it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_layers(causal: Any) -> nn.ModuleList:
    """Return the decoder layers of a causal LM, under any name."""
    count = causal.config.get_text_config().num_hidden_layers
    layers = layers_among(causal.base_model, count)
    if layers is None:
        raise kdtool.PluginError(
            f"{type(causal).__name__} does not keep its {count} layers in a list that kdtool can find"
        )
    return layers


def cache_name(model: Any) -> str:
    """Return the name of the cache among the arguments of a causal LM: `past_key_values` before transformers 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def context_of(model: Any) -> int:
    """Return the greatest number of tokens that a model reads, without counting its weights; 0 if it is unknown."""
    return int(getattr(causal_of(model).config.get_text_config(), "max_position_embeddings", 0))
