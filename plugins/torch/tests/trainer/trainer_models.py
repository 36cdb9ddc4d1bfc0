"""Stand-ins for the trainer's tests: a tiny language model with every kind of head, a teacher, losses, phases."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import sin
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import torch.nn.functional as F
from kdtool._contract.signals import alternatives
from kdtool._store.files import discard_uncommitted
from kdtool_testing import ByteTokenizer, ListSource, generate_plainly, make_run
from kdtool_torch import collate
from kdtool_torch.inputs import RowsInOrder
from kdtool_torch.objective import Objective
from kdtool_torch.trainer import StandardTrainer
from kdtool_torch.trainer.loop import TrainingLoop
from kdtool_torch.trainer.parallel import whole
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

VOCABULARY, PADDED, WIDTH, LENGTH = 61, 64, 16, 24


class Blocks(nn.Module):
    """Two causal blocks that respect documents, with dropout, over an embedding; the head may be tied to it."""

    def __init__(self, tied: bool = True, bias: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(PADDED, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, PADDED, bias=bias)
        if tied:
            self.head.weight = self.embedding.weight

    def states(self, batch: kdtool.Batch) -> list[Tensor]:
        length = batch.input_ids.shape[1]
        same = batch.document[:, :, None] == batch.document[:, None, :]
        seen = (same & torch.ones(length, length, dtype=torch.bool).tril()).float()
        seen = seen / seen.sum(-1, keepdim=True).clamp(min=1)
        states = [self.embedding(batch.input_ids)]
        for layer in self.layers:
            before = states[-1]
            mixed = torch.cat([before, seen.to(before.dtype) @ before], -1)
            states.append(before + self.dropout(torch.tanh(layer(mixed))))
        return states


class Tokens(ByteTokenizer):
    """A tokenizer of the tests' vocabulary."""

    vocabulary = VOCABULARY
    end_of_text = VOCABULARY - 1


class TinyModel(kdtool.LanguageModel):
    """`Blocks` as kdtool sees them."""

    def __init__(self, blocks: Blocks, scale: float = 1.0, soft_cap: float | None = None) -> None:
        self.model = blocks
        self.tokenizer = Tokens()
        self.scale = scale
        self.soft_cap = soft_cap

    @property
    def facts(self) -> kdtool.ModelFacts:
        count = sum(parameter.numel() for parameter in self.model.parameters())
        return kdtool.ModelFacts(count, count, 2, WIDTH, 1, 1, WIDTH, VOCABULARY, LENGTH, "float32", True, "bytes")

    @property
    def head(self) -> kdtool.Head:
        head = self.model.head
        return kdtool.Head(head.weight, VOCABULARY, head.bias, self.scale, self.soft_cap)

    def backbone(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        states = self.model.states(batch)
        labelled = batch.labels != -100
        hidden = {layer: states[layer + 1][labelled] for layer in want.layers if "hidden" in want.kinds}
        kept = {layer: states[layer + 1] for layer in want.layers if "projections" in want.kinds}
        projections = {layer: kdtool.Projections(own, 2 * own, 3 * own) for layer, own in kept.items()}
        return kdtool.ModelOutputs(last=states[-1][labelled], hidden=hidden, projections=projections)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        temperature: float,
        seeds: Sequence[int],
        top_p: float = 1.0,
    ) -> list[list[int]]:
        return generate_plainly(self, prompts, limits, temperature, seeds, top_p)

    def open_runtime(self) -> kdtool.Runtime:
        return Opened(self)

    def save(self, folder: Path) -> None:
        save_model(self.model, str(folder / "model.safetensors"))


class Opened(kdtool.Runtime):
    """A `TinyModel` opened while it trains."""

    def __init__(self, model: TinyModel) -> None:
        self.model: TinyModel = model

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        raise NotImplementedError

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        raise NotImplementedError


class Wave(kdtool.Evaluator):
    """Measures something of the weights that goes up and down: over the steps of `train_small` up to the ninth."""

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        for subject in subjects:
            opened = kdtool.open_subject(run, subject)
            assert opened is not None
            with opened.value as runtime:
                assert runtime.model is not None
                torch.rand(3)  # takes of the generators, which training must not notice
                height = float(runtime.model.model.head.weight.detach().double().sum() * 23.28)
            yield kdtool.Measurement("height", subject.name, "", sin(height), 1, higher_is_better=True)


def make_model(seed: int, **options: Any) -> TinyModel:
    torch.manual_seed(seed)
    head = {key: options.pop(key) for key in ("scale", "soft_cap") if key in options}
    return TinyModel(Blocks(**options), **head)


HEADS: dict[str, dict[str, Any]] = {
    "tied": {"tied": True},
    "untied": {"tied": False},
    "with bias, scale and cap": {"tied": False, "bias": True, "scale": 0.7, "soft_cap": 3.0},
}
"""Options of `make_model`."""


def full_logits(model: TinyModel, last: Tensor) -> Tensor:
    """Return all logits of states at once, as the tests' references do."""
    z = F.linear(last, model.model.head.weight, model.model.head.bias)[..., :VOCABULARY] * model.scale
    return z if model.soft_cap is None else model.soft_cap * torch.tanh(z / model.soft_cap)


class TinyTeacher:
    """A signal source: a frozen `TinyModel`, its hidden states, or tokens drawn from it."""

    def __init__(
        self,
        model: TinyModel,
        layers: Sequence[int] = (),
        top_k: int = 0,
        vocabulary: int = VOCABULARY,
        inside: kdtool.SignalKind = "hidden",
        temperature: float = 2.0,
    ) -> None:
        self.model = model
        self.top_k = top_k
        self.vocabulary = vocabulary
        kinds = frozenset({"top-k" if top_k else "logits", *([inside] if layers else [])})
        self.want = kdtool.SignalRequest(kinds=kinds, layers=tuple(layers), temperature=temperature)

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
        with torch.inference_mode():
            outputs = self.model.backbone(batch, self.want)
            sparse = None
            if self.top_k:
                head = self.model.head
                logits = outputs.last @ head.weight[:VOCABULARY].T
                weights, ids = (logits / self.want.temperature).softmax(-1).topk(self.top_k)
                sparse = kdtool.SparseTokens(ids.int(), weights, "top-k", self.want.temperature)
        head = replace(self.model.head, vocabulary=self.vocabulary)
        lazy = None if self.top_k else kdtool.LazyLogits(outputs.last, head)
        return kdtool.Signal("tiny", lazy, sparse, outputs.hidden, projections=outputs.projections)


class CE(kdtool.TokenLoss):
    """Cross-entropy."""

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        return -chunk.student_logits.float().log_softmax(-1).gather(-1, chunk.labels[:, None])[:, 0]


class KL(kdtool.TokenLoss):
    """Forward KL at a temperature."""

    needs = ("logits", "top-k")
    temperature_power = 2
    divergence = True
    temperature = 2.0

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        q = (chunk.student_logits.float() / chunk.temperature).log_softmax(-1)
        if isinstance(chunk.teacher, kdtool.SparseTokens):
            return -(chunk.teacher.weights * q.gather(-1, chunk.teacher.ids.long())).sum(-1)
        assert isinstance(chunk.teacher, kdtool.DenseTokens)
        p = (chunk.teacher.logits.float() / chunk.temperature).log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1)


class One(kdtool.TokenLoss):
    """1 for each token: a term's value is then the mean of what tokens weigh."""

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        return chunk.student_logits.float().sum(-1) * 0 + 1


class ByEntropy(kdtool.Weighting):
    """Weighs tokens by the teacher's entropy in nats, whatever that is in the mean."""

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        assert isinstance(chunk.teacher, kdtool.DenseTokens)
        logs = chunk.teacher.logits.float().log_softmax(-1)
        return -(logs.exp() * logs).sum(-1)


def kl_term(
    name: str, weight: float = 1.0, needs: tuple[frozenset[kdtool.SignalKind], ...] = alternatives(KL.needs)
) -> kdtool.LossTerm:
    """Return the term of a `KL`, as the engine would."""
    label = name.rpartition(".")[2]
    return kdtool.LossTerm(name, label, weight, KL.temperature, KL.temperature**2, "teacher", needs, divergence=True)


class Consistency(kdtool.TokenLoss):
    """Half the symmetric KL between two passes of the student."""

    divergence = True
    forward_passes = 2

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        assert chunk.second_logits is not None
        p, q = (logits.float().log_softmax(-1) for logits in (chunk.student_logits, chunk.second_logits))
        return ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2


class Turns(nn.Module):
    """Stands for dropout where draws must not matter: a pass leaves out every other feature, the next one the others."""

    calls = 0

    def forward(self, states: Tensor) -> Tensor:
        torch.rand(())  # as dropout does
        self.calls += 1
        return states * 2 * (torch.arange(WIDTH) % 2 == (self.calls - 1) // 2 % 2)


class Hidden(kdtool.SequenceLoss):
    """Squared distance of hidden states, through a projector if told so."""

    needs = "hidden"

    class Config(kdtool.Config):
        """Settings."""

        project: bool = False
        """Project the student's states."""

    def kdtool_modules(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> nn.Module | None:
        return nn.Linear(student.hidden, teacher.hidden) if self.config.project else None

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
        assert view.teacher is not None
        states = view.student.hidden[0]
        states = states if view.module is None else view.module(states)
        return kdtool.PerToken((states - view.teacher.hidden[0]).float().square().mean(-1))


class Keys(kdtool.SequenceLoss):
    """Squared distance of keys, and so much more."""

    needs = "projections"
    divergence = True

    class Config(kdtool.Config):
        """Settings."""

        more: float = 0.0
        """Added to each value."""

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerSequence:
        assert view.teacher is not None
        away = view.student.projections[1].keys - view.teacher.projections[1].keys
        return kdtool.PerSequence(away.float().square().mean((1, 2)) + self.config.more)


KEYS = kdtool.LossTerm(
    "losses.keys", "keys", 1.0, teacher="teacher", needs=alternatives(Keys.needs), divergence=True, layers=((1, 1),)
)


class Teacher(kdtool.Teacher):
    """Describes itself, so that losses can make projectors."""

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return make_model(0).facts


def make_rows(count: int, seed: int = 0, masked: float = 0.3) -> ListSource:
    """Rows of two documents each and some padding, part of their tokens without a label."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        cut, end = rng.randint(3, LENGTH - 8), LENGTH - rng.randint(0, 4)
        document = [0 if i < cut else 1 if i < end else -1 for i in range(LENGTH)]
        labelled = [number >= 0 and rng.random() >= masked for number in document]
        ids = [rng.randrange(VOCABULARY) for _ in range(LENGTH)]
        rows.append(kdtool.Row(f"row{index}", ids, labelled, document, {"kind": [i % 3 for i in range(LENGTH)]}))
    return ListSource(rows)


def lopsided_rows() -> ListSource:
    """Eight rows; in the order of training every other pair has next to no label, or none at all."""
    order = RowsInOrder(ListSource([_row(index, [False] * LENGTH) for index in range(8)]), 8, 0)
    rows = {}
    for place in range(8):
        labelled = [place % 4 < 2 or (place < 4 and i == 5) for i in range(LENGTH)]
        index = int(order[place].key)
        rows[index] = _row(index, labelled)
    return ListSource([rows[index] for index in range(8)])


def _row(index: int, labelled: list[bool]) -> kdtool.Row:
    ids = [(7 * index + 3 * i * i) % VOCABULARY for i in range(LENGTH)]
    return kdtool.Row(str(index), ids, labelled, [0] * LENGTH)


def make_phase(
    folder: Path,
    terms: Sequence[kdtool.LossTerm],
    signals: Mapping[str, Any] | None = None,
    steps: int = 3,
    rows: ListSource | None = None,
) -> kdtool.Phase:
    return kdtool.Phase(
        "distil", steps, tuple(terms), rows or make_rows(12), dict(signals or {}), folder / "checkpoints"
    )


def first_batch(rows: int = 4, of: ListSource | None = None) -> kdtool.Batch:
    """Return the rows of the first step of training on `make_rows(12)`, or on others."""
    order = RowsInOrder(of or make_rows(12), rows, 0)
    return collate([order[place] for place in range(rows)])


def reports_of(folder: Path) -> list[dict[str, Any]]:
    """Return what was reported of each step of a phase."""
    lines = (folder / "checkpoints" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def make_trainer(**settings: Any) -> StandardTrainer:
    return StandardTrainer(StandardTrainer.Config(**{"dtype": "float32", "compile": "off", **settings}))


MIXTURE = (
    kl_term("losses.kl", 0.7),
    kdtool.LossTerm("losses.ce", "ce", kdtool.Schedule(0.3, 0.6)),
    kdtool.LossTerm(
        "losses.hidden", "hidden", 0.5, teacher="teacher", needs=alternatives(Hidden.needs), layers=((0, 0),)
    ),
)


CONSISTENCY = kdtool.LossTerm("losses.consistency", "consistency", 0.8, divergence=True, forward_passes=2)


def mixture(project: bool = True) -> dict[str, kdtool.Component]:
    return {
        "losses.kl": KL(KL.Config()),
        "losses.ce": CE(CE.Config()),
        "losses.hidden": Hidden(Hidden.Config(project=project)),
        "losses.consistency": Consistency(Consistency.Config()),
        "teacher": Teacher(Teacher.Config()),
    }


def train(
    folder: Path,
    student: TinyModel,
    steps: int = 3,
    rows: ListSource | None = None,
    run: Mapping[str, Any] | None = None,
    twice: bool = False,
    more: Mapping[str, kdtool.Component] | None = None,
    **settings: Any,
) -> kdtool.Trained:
    """Train with the mixture of a token divergence, cross-entropy and hidden states through a projector.

    With `twice` the student is run twice a step, and consistency of the two passes is a fourth term. `more` are components
    of the run, such as weightings.
    """
    teacher = TinyTeacher(make_model(99), layers=(0,))
    terms = (*MIXTURE, CONSISTENCY) if twice else MIXTURE
    phase = make_phase(folder, terms, {"teacher": teacher}, steps=steps, rows=rows)
    components = {**mixture(), "wave": Wave(Wave.Config())} if "validation" in settings else mixture()
    info = make_run(folder / "run", {**components, **(more or {})}, **(run or {}))
    if info.rank == 0:
        discard_uncommitted(phase.checkpoints, info.say)  # as the engine does before a phase
    trained = make_trainer(**settings).kdtool_train(info, phase, student)
    assert trained is not None
    return trained


def train_terms(
    folder: Path,
    terms: Sequence[kdtool.LossTerm],
    components: Mapping[str, Any] | None = None,
    *,
    student: TinyModel | None = None,
    teacher: Any = None,
    say: Callable[[str], None] = lambda _: None,
    steps: int = 3,
    rows: ListSource | None = None,
    **settings: Any,
) -> kdtool.Trained:
    """Train with terms of choice; `components` come in addition to those of the mixture."""
    signals = {} if teacher is None else {"teacher": teacher}
    phase = make_phase(folder, terms, signals, steps, rows)
    run = make_run(folder / "run", {**mixture(), **(components or {})}, say=say)
    trained = make_trainer(**settings).kdtool_train(run, phase, student or make_model(1))
    assert trained is not None
    return trained


@contextmanager
def interrupted(after: int | Callable[[TrainingLoop, int], bool]) -> Iterator[None]:
    """Interrupt training after a step, or after the first one of which a function says so; it must happen."""
    ended = TrainingLoop.end_step

    def end_step(self: TrainingLoop, step: int) -> None:
        ended(self, step)
        if step == after if isinstance(after, int) else after(self, step):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoop, "end_step", end_step)
        with pytest.raises(KeyboardInterrupt):
            yield


def worst_difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the greatest relative difference of a parameter's gradient."""
    assert found.keys() == expected.keys()
    return max(float((found[n].double() - expected[n]).norm() / expected[n].norm()) for n in expected)


@contextmanager
def unmeasured() -> Iterator[None]:
    """Train without the passes that measure gradient norms: the student runs only what it learns from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "measure_norms", lambda *_: None)
        yield


@contextmanager
def first_gradients(model: torch.nn.Module) -> Iterator[dict[str, Tensor]]:
    """Catch the gradients that reach the optimizer at its first step."""
    caught: dict[str, Tensor] = {}

    def catch(*_: Any) -> None:
        if not caught:
            found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            caught.update({name: whole(gradient).clone() for name, gradient in found.items()})

    handle = register_optimizer_step_pre_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()
