"""Tokens sampled from a language model plainly, as `kdtool.LanguageModel.generate` promises them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kdtool import LanguageModel, Row, SignalRequest

from kdtool_testing.toy import batch_of

if TYPE_CHECKING:
    from torch import Tensor


def generate_plainly(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    temperature: float,
    seeds: Sequence[int],
    top_p: float = 1.0,
) -> list[list[int]]:
    """Compute `kdtool.LanguageModel.generate` plainly: each text by itself, without a cache, on the CPU."""
    import torch

    continuations = []
    with eval_mode(model.model), torch.no_grad():
        for prompt, limit, seed in zip(prompts, limits, seeds, strict=True):
            chance, new = torch.Generator().manual_seed(seed), list[int]()
            while len(new) < limit and model.tokenizer.end_of_text not in new:
                logits = _next_logits(model, [*prompt, *new])
                if temperature:
                    odds = nucleus((logits / temperature).double().softmax(-1), top_p)
                    new.append(int(torch.multinomial(odds, 1, generator=chance)))
                else:
                    new.append(int(logits.argmax()))
            continuations.append(new)
    return continuations


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Return probabilities [V] with 0 outside the fewest likeliest that together have `top_p`, one at least."""
    kept, total = probabilities.new_zeros(len(probabilities)), 0.0
    for token in probabilities.argsort(descending=True, stable=True).tolist():
        if total >= top_p:
            break
        kept[token] = probabilities[token]
        total += float(probabilities[token])
    return kept / kept.sum()


def _next_logits(model: LanguageModel, ids: list[int]) -> Tensor:
    """Return float32 logits [V] of the token after `ids`."""
    size = len(ids) + 1
    row = Row("", [*ids, 0], [False] * len(ids) + [True], [0] * size)  # the last token is what is predicted
    return model.head.logits(model.backbone(batch_of([row]), SignalRequest()).last)[0].float()


@contextmanager
def eval_mode(module: Any) -> Iterator[None]:
    """Switch a module and its children to evaluation, and back at the end."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode
