"""Opened subjects for tests of evaluators, the small model behind them, and plain generation and scoring.

Generation and scoring use only backbone and head: for small models of tests, and as the reference for faster ways. Light:
torch is imported when a function is called, and only if it is installed for `ToyRuntime`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from math import log
from typing import TYPE_CHECKING, Any

from kdtool import (
    Exporter,
    LanguageModel,
    LogLikelihood,
    Request,
    Row,
    RunInfo,
    Runtime,
    SignalRequest,
    Subject,
    TextAnswer,
    TextPiece,
)

from kdtool_testing.toy import batch_of, batch_on

if TYPE_CHECKING:
    from torch import Tensor

    from kdtool_testing.toy.torch_model import ToyModel


def toy_model(seed: int = 0) -> ToyModel:
    """Return a small causal language model on plain torch, with bytes as tokens and dropout between its blocks."""
    from kdtool_testing.toy.torch_model import ToyModel

    return ToyModel(seed)


class ToyRuntime(Runtime):
    """An opened subject: answers with fixed text, has a `toy_model` and scores by it.

    Where torch is not installed, `model` is None and bytes have fixed probabilities. `closed` counts calls of `close`.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = random.Random(f"runtime {seed}")
        weights = [rng.random() + 0.1 for _ in range(257)]
        self._costs = [log(sum(weights)) - log(weight) for weight in weights]
        self._text = "".join(rng.choice("abcdef =()\n") for _ in range(200))
        self.model: LanguageModel | None = toy_model(seed) if find_spec("torch") else None
        self.closed = 0
        self.abilities = self.abilities | {"infill"}

    def answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        """Yield the same text for every request, up to its first stop or its number of tokens; too long ones are refused."""
        for request in requests:
            if self.model and len(request.prompt.encode("utf-8")) >= self.model.facts.context:
                yield TextAnswer(request.id, "", "refused", len(request.prompt.encode("utf-8")), 0)
                continue
            text = self._text[: request.max_tokens]
            ends = [start for stop in request.stop if stop and (start := text.find(stop)) >= 0]
            text = text[: min(ends, default=len(text))]
            tokens = len(request.prompt.encode("utf-8"))
            yield TextAnswer(request.id, text, "stop" if ends else "length", tokens, len(text))

    def stream(self, request: Request) -> Iterator[TextPiece]:
        """Yield the answer letter by letter."""
        (found,) = self.answer([request])
        for count, letter in enumerate(found.text, 1):
            yield TextPiece(letter, found.tokens_in, count)
        yield TextPiece("", found.tokens_in, found.tokens_out, found.finish)

    def score(self, texts: Sequence[str]) -> Iterator[LogLikelihood]:
        """Yield the log-likelihood of each text's bytes by the model, or by fixed probabilities if there is none."""
        for text in texts:
            content = text.encode("utf-8")
            costs = -sum(self._costs[byte] for byte in content)
            yield LogLikelihood(log_likelihood(self.model, text) if self.model else costs, len(content), len(content))

    def close(self) -> None:
        """Count."""
        self.closed += 1


class ScriptedRuntime(Runtime):
    """An opened subject that answers each request with the text that `text_of` returns for it.

    `asked` lists the requests. With `most`, a KeyboardInterrupt follows after that number of answers.
    """

    def __init__(self, text_of: Callable[[Request], str], most: int | None = None) -> None:
        self._text_of = text_of
        self._most = most
        self.asked: list[Request] = []

    def answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        """Yield the answers, each of four tokens that ended by themselves."""
        for number, request in enumerate(requests):
            if number == self._most:
                raise KeyboardInterrupt
            self.asked.append(request)
            yield TextAnswer(request.id, self._text_of(request), "stop", 3, 4)

    def score(self, texts: Sequence[str]) -> Iterator[LogLikelihood]:
        """Fail: this runtime only answers."""
        raise NotImplementedError


class OneRuntime(Exporter):
    """Opens every subject as the same runtime; with None it opens none."""

    def __init__(self, runtime: Runtime | None) -> None:
        super().__init__(self.Config())
        self._runtime = runtime

    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        return self._runtime


class Opener(Exporter):
    """Opens every subject except those in `refused`, each name with different weights, and remembers the runtimes."""

    def __init__(self, *refused: str) -> None:
        super().__init__(self.Config())
        self._refused = refused
        self.opened: list[ToyRuntime] = []

    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        if subject.name in self._refused:
            return None
        self.opened.append(ToyRuntime(sum(subject.name.encode())))
        return self.opened[-1]


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
    with _eval_mode(model.model), torch.no_grad():
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


def log_likelihood(model: LanguageModel, text: str) -> float:
    """Return the log-likelihood of a text after the tokenizer's `scoring_context`, in nats, computed in float64."""
    import torch

    context, text_ids = list(model.tokenizer.scoring_context), model.tokenizer.encode(text)
    labelled = [False] * len(context) + [True] * len(text_ids)
    batch = batch_of([Row("", [*context, *text_ids], labelled, [0] * len(labelled))])
    with _eval_mode(model.model), torch.no_grad():
        logits = (
            model.head.logits(model.backbone(batch_on(batch, model.head.weight.device), SignalRequest()).last)
            .double()
            .cpu()
        )
    return float(logits.log_softmax(-1)[torch.arange(len(text_ids)), torch.tensor(text_ids)].sum())


def _next_logits(model: LanguageModel, ids: list[int]) -> Tensor:
    """Return float32 logits [V] of the token after `ids`."""
    size = len(ids) + 1
    row = Row("", [*ids, 0], [False] * len(ids) + [True], [0] * size)  # the last token is what is predicted
    return model.head.logits(model.backbone(batch_of([row]), SignalRequest()).last)[0].float()


@contextmanager
def _eval_mode(module: Any) -> Iterator[None]:
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode
