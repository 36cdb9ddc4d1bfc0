"""Which layers matter: how much each changes what passes through it, on calibration text.

Block influence (ShortGPT, arXiv 2403.03853): one minus the mean cosine of a layer's input and output states.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import kdtool
import torch
import torch.nn.functional as F
from kdtool_transformers import TransformersModel, decoder_layers
from torch import Tensor, nn

__all__ = ["block_influence", "most_important", "uniform"]

_ROWS_AT_ONCE = 4


def block_influence(
    model: TransformersModel, examples: Iterable[kdtool.Example], rows: int, length: int
) -> list[float]:
    """Return each layer's influence, 0 (changes nothing) to 2, over at most `rows` rows of `length` tokens.

    Raises:
        UsageError: the examples hold no text.
    """
    layers = decoder_layers(model.model)
    sums, tokens = [0.0] * len(layers), 0

    def measure(number: int) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            before = inputs[0] if inputs else named["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            sums[number] += float((1 - F.cosine_similarity(before.float(), after.float(), dim=-1)).sum())

        return hook

    hooks = [layer.register_forward_hook(measure(number), with_kwargs=True) for number, layer in enumerate(layers)]
    try:
        for batch in _batches(model, examples, rows, min(length, model.facts.context or length)):
            with torch.no_grad():
                model.backbone(batch, kdtool.Want())
            tokens += batch.input_ids.numel()
    finally:
        for hook in hooks:
            hook.remove()
    if not tokens:
        raise kdtool.UsageError(
            "the training text is empty, so no layer's importance can be measured; give keep instead"
        )
    return [total / tokens for total in sums]


def most_important(influence: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the `count` layers of greatest influence, ascending; of equals the earlier."""
    ranked = sorted(range(len(influence)), key=lambda layer: -influence[layer])
    return tuple(sorted(ranked[:count]))


def uniform(layers: int, count: int) -> tuple[int, ...]:
    """Return `count` evenly spaced layers, first and last included (only the first if one stays)."""
    if count == 1:
        return (0,)
    return tuple(round(number * (layers - 1) / (count - 1)) for number in range(count))


def _batches(
    model: TransformersModel, examples: Iterable[kdtool.Example], rows: int, length: int
) -> Iterator[kdtool.Batch]:
    held: list[list[int]] = []
    for done, row in enumerate(_rows(model.tokenizer, examples, rows, length), start=1):
        held.append(row)
        if len(held) == _ROWS_AT_ONCE or done == rows:
            yield _batch(torch.tensor(held, device=model.head.weight.device), model.tokenizer.end_of_text)
            held = []
    if held:
        yield _batch(torch.tensor(held, device=model.head.weight.device), model.tokenizer.end_of_text)


def _rows(
    tokenizer: kdtool.Tokenizer, examples: Iterable[kdtool.Example], rows: int, length: int
) -> Iterator[list[int]]:
    """Cut the running text into at most `rows` full rows; if it is shorter than one row, that is the only row."""
    pending: list[int] = []
    made = 0
    for example in examples:
        pending += [*tokenizer.encode(_text(example)), tokenizer.end_of_text]
        while len(pending) >= length:
            yield pending[:length]
            pending, made = pending[length:], made + 1
            if made == rows:
                return
    if pending and not made:
        yield pending


def _text(example: kdtool.Example) -> str:
    body = example.body
    if isinstance(body, kdtool.Text):
        return body.text
    if isinstance(body, kdtool.Completion):
        return body.prompt + body.completion
    return "\n".join(content for _, content in body.turns)


def _batch(ids: Tensor, end_of_text: int) -> kdtool.Batch:
    """Make a batch in which a document ends with each end-of-text token."""
    ends = F.pad(ids[:, :-1] == end_of_text, (1, 0))
    document = ends.cumsum(dim=1).to(torch.int32)
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    positions = index - torch.where(ends, index, 0).cummax(dim=1).values
    return kdtool.Batch(ids, positions, torch.full_like(ids, -100), document, ("",) * len(ids))
