"""Log-likelihoods of texts by a language model.

Windows of similar length share a batch, and the head is projected in chunks, so that nothing of size
texts × length × vocabulary exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch._batches import NO_LABEL
from kdtool_torch._eval_mode import eval_mode
from kdtool_torch._exact import exact_head, exact_logits
from kdtool_torch._likelihood import log_likelihood
from kdtool_torch._moved import move
from kdtool_torch._windows import Window, windows

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["score_continuations", "score_texts"]

_BATCH_TOKENS = 8192
_TEXTS_AT_ONCE = 64
_HEAD_ROWS = 512


def score_texts(
    model: kdtool.LanguageModel,
    texts: Sequence[str],
    window: int,
    encode_batch: Callable[[list[str]], list[list[int]]],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[kdtool.LogLikelihood]:
    """Yield each text's log-likelihood, in order; the first token is predicted from the tokenizer's `scoring_context`.

    Args:
        model: computes without dropout and gradients, on the device of its head.
        texts: of any length.
        window: the greatest number of tokens that are read at once; see `windows`.
        encode_batch: returns the ids of several texts, without special tokens.
        autocast: the context of each forward pass.
    """
    context, head = model.tokenizer.scoring_context, exact_head(model.head)
    waiting = iter(texts)
    while group := list(islice(waiting, _TEXTS_AT_ONCE)):
        ids = [[*context, *tokens] for tokens in encode_batch(group)]
        totals = [0.0] * len(group)
        for batch in _batches(ids, window, len(context)):
            rows = [(ids[number], part) for number, part in batch]
            with eval_mode(model.model), autocast():
                scores = _scores(model, head, rows, log_likelihood)
            for (number, _), values in zip(batch, scores, strict=True):
                totals[number] += float(values.double().sum())
        for text, tokens, total in zip(group, ids, totals, strict=True):
            yield kdtool.LogLikelihood(total, len(tokens) - len(context), len(text.encode("utf-8")))


def score_continuations(
    model: kdtool.LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> Iterator[tuple[int, float, bool]]:
    """Yield each pair's number, log P(continuation | context), and whether every token of the continuation is the likeliest.

    Longer pairs come first. In the weights' dtype, logits in float32 or better.

    Args:
        model: computes without dropout and gradients, on the device of its head.
        pairs: ids of a context, at least one, and of its continuation. Beyond the model's context only their end counts.
    """
    head, most = exact_head(model.head), model.facts.context
    kept = [[*before, *after][-(most + 1) if most else 0 :] for before, after in pairs]
    parts = [
        (number, Window(0, max(0, len(tokens) - len(pairs[number][1]) - 1), len(tokens) - 1))
        for number, tokens in enumerate(kept)
    ]
    for batch in _group(parts):
        with eval_mode(model.model):
            scores = _scores(model, head, [(kept[number], part) for number, part in batch], _with_argmax)
        for (number, _), values in zip(batch, scores, strict=True):
            yield number, float(values[:, 0].double().sum()), bool(values[:, 1].all())


def _batches(ids: list[list[int]], window: int, before: int) -> Iterator[list[tuple[int, Window]]]:
    """Group the windows of texts, each with the number of its text. The first `before` tokens of a text are not scored."""
    yield from _group(
        [(number, part) for number, tokens in enumerate(ids) for part in windows(len(tokens) - 1, window, before - 1)]
    )


def _group(parts: list[tuple[int, Window]]) -> Iterator[list[tuple[int, Window]]]:
    """Group numbered windows of similar length so that a padded batch has about `_BATCH_TOKENS` tokens."""
    parts.sort(key=lambda part: part[1].start - part[1].stop)
    while parts:
        count = max(1, _BATCH_TOKENS // (parts[0][1].stop - parts[0][1].start))
        yield parts[:count]
        parts = parts[count:]


def _scores(
    model: kdtool.LanguageModel,
    head: kdtool.Head,
    rows: list[tuple[list[int], Window]],
    score: Callable[[Tensor, Tensor], Tensor],
) -> Sequence[Tensor]:
    """Return what `score` finds for the tokens of each window from logits and labels, copied to the host at once."""
    import torch

    inputs, labels, positions = _pad(rows)
    document, device = torch.where(positions >= 0, 0, -1).to(torch.int32), model.head.weight.device
    on_host = kdtool.Batch(inputs, positions.clamp(min=0), labels, document, ("",) * len(rows))
    states = model.backbone(move(on_host, device), kdtool.SignalRequest()).last
    targets = labels[labels != NO_LABEL].to(device, non_blocking=True)
    chunks = zip(torch.split(states, _HEAD_ROWS), torch.split(targets, _HEAD_ROWS), strict=True)
    scores = torch.cat([score(exact_logits(head, chunk), of_chunk) for chunk, of_chunk in chunks])
    return torch.split(scores.cpu(), [part.stop - part.scored for _, part in rows])


def _with_argmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Return [tokens, 2]: the log-likelihood of each label, and 1 where it is the likeliest token, else 0."""
    import torch

    values, are_likeliest = log_likelihood(logits, labels), logits.argmax(-1) == labels
    return torch.stack((values, are_likeliest.to(values.dtype)), -1)


def _pad(rows: list[tuple[list[int], Window]]) -> Tensor:
    """Return inputs, labels (`NO_LABEL` for none) and positions (-1 on padding), stacked: [3, B, L]."""
    import torch

    length = max(part.stop - part.start for _, part in rows)
    padded = []
    for tokens, (start, scored, stop) in rows:
        padding = length - (stop - start)
        inputs = tokens[start:stop] + [0] * padding
        labels = [NO_LABEL] * (scored - start) + tokens[scored + 1 : stop + 1] + [NO_LABEL] * padding
        padded.append([inputs, labels, [*range(stop - start), *[-1] * padding]])
    return torch.tensor(padded).transpose(0, 1)
