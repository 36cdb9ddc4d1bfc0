"""Log-likelihoods of texts: by a language model, and by a teacher that only has logits.

Windows of similar length share a batch, and the head is projected in chunks, so that nothing of size texts × length ×
vocabulary exists. Texts longer than a model's context are read in windows that advance by half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import kdtool

from kdtool_torch.batch import NO_LABEL, move
from kdtool_torch.numerics import eval_mode, exact_head, exact_logits, log_likelihood, require_finite

if TYPE_CHECKING:
    from torch import Tensor

_BATCH_TOKENS = 8192
_TEXTS_AT_ONCE = 64
_ROWS = 512
"""Positions whose logits exist at once."""
_FEW, _SHORT, _MUCH = 4, 512, 0.05
"""Texts, tokens of each, and the difference in nats per token, of `say_context`."""


def score_texts(
    model: kdtool.LanguageModel,
    texts: Sequence[str],
    window: int,
    encode_batch: Callable[[list[str]], list[list[int]]],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    context: Sequence[int] = (),
) -> Iterator[kdtool.LogLikelihood]:
    """Yield each text's log-likelihood, in order.

    Args:
        model: computes without dropout and gradients, on the device of its head.
        texts: of any length.
        window: the greatest number of tokens that are read at once; see `windows`.
        encode_batch: returns the ids of several texts, without special tokens.
        autocast: the context of each forward pass.
        context: the ids after which the first token is predicted; by default the tokenizer's `scoring_context`.
    """
    context, head = context or model.tokenizer.scoring_context, exact_head(model.head)
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


def say_context(
    run: kdtool.RunInfo, evaluator: str, subject: kdtool.Subject, model: kdtool.LanguageModel, texts: Sequence[str]
) -> None:
    """Say so if the tokens that kdtool puts before a text change the loss of a few texts by more than 0.05 nats per token.

    The first token of a text is not counted, since nothing precedes it without them. A student in training is left out.
    """
    if subject.open_runtime() is not None:
        return
    start, tokenizer = model.tokenizer.scoring_context, model.tokenizer
    most = min(_SHORT, model.facts.context or _SHORT) - len(start)
    beginnings = [ids[:most] for ids in (tokenizer.encode(text) for text in texts[:_FEW]) if len(ids) > 1]
    losses, count = {start: 0.0, (): 0.0}, sum(len(ids) - 1 for ids in beginnings)
    for before in losses:
        pairs = [([*before, ids[0]], ids[1:]) for ids in beginnings]
        losses[before] = -sum(score for _, score, _ in score_continuations(model, pairs)) / max(1, count)
    if abs(losses[start] - losses[()]) > _MUCH:
        names = tokenizer.tokens()
        run.say(
            f"{evaluator}: {subject.name} takes {losses[start]:.3f} nats per token for {len(beginnings)} documents after "
            f"{' '.join(repr(names[index]) for index in start)}, which kdtool puts before a text, and {losses[()]:.3f} "
            "without: compare its figures only with those of tools that put the same there"
        )


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
    chunks = zip(torch.split(states, _ROWS), torch.split(targets, _ROWS), strict=True)
    scores = torch.cat([score(exact_logits(head, chunk), of_chunk) for chunk, of_chunk in chunks]).cpu()
    require_finite(scores, model.model)
    return torch.split(scores, [part.stop - part.scored for _, part in rows])


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


class Window(NamedTuple):
    """Tokens `start:stop` are read; predictions before `scored` were made in an earlier window."""

    start: int
    scored: int
    stop: int


def windows(count: int, size: int, done: int = 0) -> Iterator[Window]:
    """Divide `count` predictions into windows of at most `size` tokens that advance by half.

    Each prediction is made once, in the first window that holds it, with at least half a window before it (if the text
    is that long). Prediction n is of token n + 1 of the text. The first `done` predictions are not made.
    """
    start, scored = 0, done
    while scored < count:
        stop = min(start + size, count)
        yield Window(start, scored, stop)
        scored, start = stop, start + max(1, size // 2)


class LogitsRuntime(kdtool.Runtime):
    """Scores texts and continues prompts by a teacher's logits: one text at a time, one signal for each new token.

    For a teacher that offers logits and reads texts of any length. `kdtool_open` returns it in one line. A model with a
    limited context or a costly pass needs its own runtime, which cuts texts into windows and keeps the
    states of the text it has read.
    """

    abilities = frozenset({"continue", "score"})

    def __init__(self, teacher: kdtool.Teacher, run: kdtool.RunInfo) -> None:
        self._teacher = teacher
        tokenizer = teacher.kdtool_tokenizer(run)
        if tokenizer is None:
            raise kdtool.UsageError(f"{type(teacher).__name__} has no tokenizer: return one from kdtool_tokenizer")
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> kdtool.Tokenizer:
        """The teacher's."""
        return self._tokenizer

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Yield the log-likelihood of each text, from logits in float32."""
        for text in texts:
            ids = self._tokenizer.encode(text)
            total = self._log_likelihood(ids) if ids else 0.0
            yield kdtool.LogLikelihood(total, len(ids), len(text.encode("utf-8")))

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Continue prompts: by the likeliest tokens at temperature 0, else by tokens drawn from the request's seed."""
        end = self._tokenizer.end_of_text
        for request in requests:
            ids = self._tokenizer.encode(request.prompt)
            prompt = [*self._tokenizer.missing_start(ids), *ids] or [end]
            new, text = list[int](), ""
            for token in self._continuation(prompt, request):
                new.append(token)
                text = self._tokenizer.decode(new)
                if token == end or any(stop in text for stop in request.stop):
                    break
            stops = [text.index(stop) for stop in request.stop if stop in text]
            ended = bool(stops) or new[-1:] == [end]
            answer = text[: min(stops, default=len(text))]
            yield kdtool.TextAnswer(request.id, answer, "stop" if ended else "length", len(prompt), len(new))

    def _log_likelihood(self, ids: Sequence[int]) -> float:
        import torch

        lazy = self._logits(self._tokenizer.scoring_context, ids)
        head, labels = exact_head(lazy.head), torch.tensor(ids, device=lazy.hidden.device)
        parts = zip(torch.split(lazy.hidden, _ROWS), torch.split(labels, _ROWS), strict=True)
        sums = [log_likelihood(exact_logits(head, states), labels).double().sum() for states, labels in parts]
        return float(torch.stack(sums).sum())

    def _continuation(self, prompt: Sequence[int], request: kdtool.Request) -> Iterator[int]:
        """Yield new tokens, as many as the request allows."""
        import torch

        ids, generator = list(prompt), torch.Generator().manual_seed(request.seed)
        for _ in range(request.max_tokens):
            lazy = self._logits(ids, [0])  # the label is not known yet, and logits do not depend on it
            logits: Tensor = exact_logits(lazy.head, lazy.hidden)[0].cpu()
            if request.temperature:
                odds = (logits / request.temperature).softmax(-1)
                ids.append(int(torch.multinomial(odds, 1, generator=generator)))
            else:
                ids.append(int(logits.argmax()))
            yield ids[-1]

    def _logits(self, before: Sequence[int], ids: Sequence[int]) -> kdtool.LazyLogits:
        """Return the logits that predict `ids` after `before`, which is one document."""
        import torch

        tokens = torch.tensor([[*before, *ids]])
        inputs, labels = tokens[:, :-1], tokens[:, 1:].clone()
        labels[:, : len(before) - 1] = NO_LABEL
        positions, document = torch.arange(inputs.shape[1])[None], torch.zeros_like(inputs, dtype=torch.int32)
        batch = kdtool.Batch(inputs, positions, labels, document, ("",))
        signal = self._teacher.kdtool_signal(batch, kdtool.SignalRequest(frozenset({"logits"})))
        if signal.lazy is None:
            raise kdtool.PluginError(f"{type(self._teacher).__name__} is opened by its logits, but signals none")
        require_finite(signal, type(self._teacher).__name__)
        return signal.lazy
