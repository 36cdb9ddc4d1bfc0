"""Importance of each layer, channel, head and neuron of a model, measured on calibration text in one pass.

Layers: block influence, one minus the mean cosine of a layer's input and output (ShortGPT, arXiv 2403.03853). Widths, after
Minitron (arXiv 2407.14679, section 2.2): activations of a unit's output, aggregated over all tokens, here as mean squares,
and weighted by the matrix that reads them:

- neuron i of a feed-forward layer: E[aᵢ²] · ‖wᵢ‖², a the input of the last matrix and wᵢ its column;
- head h: E[‖W_h a_h‖²], a_h the head's input to the output matrix and W_h the columns that read it;
- channel c of the states: E[xᵢ²/mean(x²)] before each norm, without the mean if the norm subtracts it.

So neurons and heads count by the energy that they add to the states, channels by their share of the total energy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import kdtool
import torch
import torch.nn.functional as F
from kdtool_transformers import TransformersModel, decoder_layers
from torch import Tensor, nn

_ROWS_AT_ONCE = 4


@dataclass(frozen=True)
class Importance:
    """Importance of units, on the CPU; greater is more.

    `layers` [L], `heads` [L, heads], `feed_forward` [L, neurons], and `channels` [H] by the name of the norm that reads
    them: shares that sum to 1. All but `layers` are empty where only layers were measured.
    """

    layers: Tensor
    channels: dict[str, Tensor]
    heads: Tensor
    feed_forward: Tensor


class _Sums(dict[str, Tensor]):
    """Sums over tokens, by name."""

    def add(self, name: str, value: Tensor) -> None:
        value = value.double().cpu()
        self[name] = self[name] + value if name in self else value


def measure(
    model: TransformersModel, examples: Iterable[kdtool.Example], rows: int, length: int, *, widths: bool
) -> Importance:
    """Measure over at most `rows` rows of `length` tokens; everything except layers only with `widths`.

    Raises:
        UsageError: the examples contain no text.
    """
    sums, tokens = _Sums(), 0
    with _record_sums(model.model, sums, widths):
        for batch in _batches(model, examples, rows, min(length, model.facts.context or length)):
            with torch.no_grad():
                model.backbone(batch, kdtool.SignalRequest())
            tokens += batch.input_ids.numel()
    if not tokens:
        raise kdtool.UsageError(
            "the training text is empty, so importance cannot be measured: give a corpus with training text, or set "
            "only `keep`, which names the layers itself"
        )
    layers = decoder_layers(model.model)

    def stack_means(kind: str) -> Tensor:
        return torch.stack([sums[f"{kind} {number}"] / tokens for number in range(len(layers))])

    return Importance(
        layers=stack_means("layer"),
        channels={name.removeprefix("norm "): s / s.sum() for name, s in sums.items() if name.startswith("norm ")},
        heads=stack_means("heads") if widths else torch.empty(0),
        feed_forward=stack_means("neurons") if widths else torch.empty(0),
    )


@contextmanager
def _record_sums(causal: Any, sums: _Sums, widths: bool) -> Iterator[None]:
    """Let every forward pass add to `sums` while the block runs."""
    hooks = []
    layers: Iterable[Any] = decoder_layers(causal)
    for number, layer in enumerate(layers):
        hooks.append(layer.register_forward_hook(_influence(sums, f"layer {number}"), with_kwargs=True))
        if widths:
            size = layer.self_attn.head_dim
            last = layer.mlp.down_proj if hasattr(layer.mlp, "down_proj") else layer.mlp.c_proj
            hooks += [
                layer.self_attn.o_proj.register_forward_pre_hook(_head_energy(sums, f"heads {number}", size)),
                last.register_forward_pre_hook(_neuron_energy(sums, f"neurons {number}")),
            ]
    if widths:
        hooks += [
            module.register_forward_pre_hook(_channel_shares(sums, f"norm {name}"))
            for name, module in causal.named_modules()
            if name.endswith("norm")
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _influence(sums: _Sums, name: str) -> Callable[..., None]:
    def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        before = inputs[0] if inputs else named["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        sums.add(name, (1 - F.cosine_similarity(before.float(), after.float(), dim=-1)).sum())

    return hook


def _head_energy(sums: _Sums, name: str, size: int) -> Callable[..., None]:
    def hook(module: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        heads = inputs[0].float().reshape(-1, module.in_features // size, size)  # [tokens, heads, size]
        columns = module.weight.float().reshape(-1, module.in_features // size, size)  # [hidden, heads, size]
        gram = torch.einsum("ohi,ohj->hij", columns, columns)
        moments = torch.einsum("nhi,nhj->hij", heads, heads)
        sums.add(name, (gram * moments).sum((1, 2)))

    return hook


def _neuron_energy(sums: _Sums, name: str) -> Callable[..., None]:
    def hook(module: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        energy = inputs[0].float().square().flatten(0, -2).sum(0)
        sums.add(name, energy * module.weight.float().square().sum(0))

    return hook


def _channel_shares(sums: _Sums, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        states = inputs[0].float()
        if isinstance(module, nn.LayerNorm):
            states = states - states.mean(-1, keepdim=True)
        energy = states.square()
        sums.add(name, (energy / energy.mean(-1, keepdim=True).clamp(min=1e-30)).flatten(0, -2).sum(0))

    return hook


def _batches(
    model: TransformersModel, examples: Iterable[kdtool.Example], rows: int, length: int
) -> Iterator[kdtool.Batch]:
    cut = _rows(model.tokenizer, examples, rows, length)
    while held := list(islice(cut, _ROWS_AT_ONCE)):
        yield _batch(torch.tensor(held, device=model.head.weight.device), model.tokenizer.end_of_text)


def _rows(
    tokenizer: kdtool.Tokenizer, examples: Iterable[kdtool.Example], rows: int, length: int
) -> Iterator[list[int]]:
    """Cut the running text into at most `rows` full rows; if it is shorter than one row, that is the only row.

    Each document, and each row, begins as the tokenizer begins a document.
    """
    pending: list[int] = []
    made = 0
    for example in examples:
        gap = "\n" if isinstance(example.body, kdtool.Messages) else ""
        ids = [*tokenizer.encode(gap.join(kdtool.parts_of(example.body))), tokenizer.end_of_text]
        pending += [*tokenizer.missing_start(ids), *ids]
        while len(pending) >= length:
            yield pending[:length]
            pending, made = pending[length:], made + 1
            pending = [*tokenizer.missing_start(pending), *pending] if pending else []
            if made == rows:
                return
    if pending and not made:
        yield pending


def _batch(ids: Tensor, end_of_text: int) -> kdtool.Batch:
    """Make a batch in which a document ends with each end-of-text token."""
    ends = F.pad(ids[:, :-1] == end_of_text, (1, 0))
    document = ends.cumsum(dim=1).to(torch.int32)
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    positions = index - torch.where(ends, index, 0).cummax(dim=1).values
    return kdtool.Batch(ids, positions, torch.full_like(ids, -100), document, ("",) * len(ids))
