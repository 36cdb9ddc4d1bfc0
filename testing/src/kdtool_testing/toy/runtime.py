"""Opened subjects for tests of evaluators, the small model that they use, and plain generation and scoring.

Generation and scoring use only backbone and head: for small models of tests, and as the reference for faster ways. Light:
torch is imported when a function is called, and only if it is installed for `ToyRuntime`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from math import log
from typing import TYPE_CHECKING

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
from kdtool_testing.toy.sampling import eval_mode

if TYPE_CHECKING:
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


def log_likelihood(model: LanguageModel, text: str) -> float:
    """Return the log-likelihood of a text after the tokenizer's `scoring_context`, in nats, computed in float64."""
    import torch

    context, text_ids = list(model.tokenizer.scoring_context), model.tokenizer.encode(text)
    labelled = [False] * len(context) + [True] * len(text_ids)
    batch = batch_of([Row("", [*context, *text_ids], labelled, [0] * len(labelled))])
    with eval_mode(model.model), torch.no_grad():
        logits = (
            model.head.logits(model.backbone(batch_on(batch, model.head.weight.device), SignalRequest()).last)
            .double()
            .cpu()
        )
    return float(logits.log_softmax(-1)[torch.arange(len(text_ids)), torch.tensor(text_ids)].sum())
