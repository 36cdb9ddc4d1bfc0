"""A tiny student and teacher in plain torch that show all that a loss may look at, in any precision, and rows for them.

`test_losses_against_reference` trains them; its reference runs copies of them in float64.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, NamedTuple

import kdtool
import torch
import torch.nn.functional as F
from kdtool._contract.signals import alternatives
from kdtool_testing import ByteTokenizer, ListSource
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

VOCABULARY, PADDED, LENGTH, HEADS = 31, 33, 12, 2


class Seen(NamedTuple):
    """All that a pass shows: `last` and `states[layer]` are [B, L, H], `maps[layer]` [B, heads, L, L]."""

    last: Tensor
    states: list[Tensor]
    maps: list[Tensor]
    projections: list[kdtool.Projections]


class Attentive(nn.Module):
    """Causal attention that respects documents, some layers of it, below a head with padding, bias, scale and cap."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(PADDED, width)
        self.layers = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.head = nn.Linear(width, PADDED)
        self.passes = 0

    def forward(self, batch: kdtool.Batch) -> Seen:
        """Run one pass. Every other one leaves out the even features of the last states, the ones between the odd ones."""
        torch.rand(())  # as dropout draws
        length = batch.input_ids.shape[1]
        same = batch.document[:, :, None] == batch.document[:, None, :]
        allowed = (same & torch.ones(length, length, dtype=torch.bool).tril())[:, None]
        states, maps, projections = [self.embedding(batch.input_ids)], [], []
        for layer in self.layers:
            own = kdtool.Projections(*layer(states[-1]).chunk(3, -1))
            queries, keys, values = (part.reshape(*part.shape[:-1], HEADS, -1).transpose(1, 2) for part in own)
            scores = (queries @ keys.transpose(-1, -2)).masked_fill(~allowed, -torch.inf)
            maps.append(scores.softmax(-1))
            mixed = (maps[-1] @ values).transpose(1, 2).flatten(2)
            states.append(states[-1] + torch.tanh(mixed))
            projections.append(own)
        kept = 2 * (torch.arange(states[-1].shape[-1]) % 2 == self.passes % 2)
        self.passes += 1
        return Seen(states[-1] * kept, states[1:], maps, projections)

    def logits(self, last: Tensor) -> Tensor:
        """Return logits over the true vocabulary."""
        return 5.0 * torch.tanh(0.8 * F.linear(last, self.head.weight, self.head.bias)[..., :VOCABULARY] / 5.0)


class Tokens(ByteTokenizer):
    """A tokenizer of this vocabulary."""

    vocabulary = VOCABULARY


class AttentiveModel(kdtool.LanguageModel):
    """`Attentive` as kdtool sees it."""

    def __init__(self, model: Attentive) -> None:
        self.model: Attentive = model
        self.tokenizer = Tokens()

    @property
    def facts(self) -> kdtool.ModelFacts:
        """Shapes."""
        count, width = sum(parameter.numel() for parameter in self.model.parameters()), self.model.head.in_features
        shapes = (len(self.model.layers), width, HEADS, HEADS, width, VOCABULARY, LENGTH)
        return kdtool.ModelFacts(count, count, *shapes, "float32", False, "bytes")

    @property
    def head(self) -> kdtool.Head:
        """The head."""
        return kdtool.Head(self.model.head.weight, VOCABULARY, self.model.head.bias, 0.8, 5.0)

    def backbone(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        """Run one pass and return what is wanted of it."""
        seen, labelled = self.model(batch), batch.labels != -100

        def wanted(kind: kdtool.SignalKind, found: list[Any]) -> dict[int, Any]:
            return {layer: found[layer] for layer in want.layers if kind in want.kinds}

        hidden = {layer: states[labelled] for layer, states in wanted("hidden", seen.states).items()}
        maps, projections = wanted("attentions", seen.maps), wanted("projections", seen.projections)
        return kdtool.ModelOutputs(seen.last[labelled], hidden, maps, projections)

    def save(self, folder: Path) -> None:
        """Refuse: it is never opened again."""
        raise NotImplementedError


def make_model(seed: int, layers: int, width: int) -> AttentiveModel:
    """Return a model with random weights."""
    torch.manual_seed(seed)
    return AttentiveModel(Attentive(layers, width))


class Describing(kdtool.Teacher):
    """Tells its shapes, from which losses make projectors."""

    facts: kdtool.ModelFacts

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        return self.facts


@dataclass(frozen=True)
class Source:
    """A model as a source of signals: `form` says how it tells of tokens, sparse ones at `temperature`."""

    model: Any
    want: kdtool.SignalRequest
    form: str = "dense"
    temperature: float = 1.0

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
        """Return the signal for a batch."""
        with torch.no_grad():
            self.model.model.passes = 0
            outputs = self.model.backbone(batch, self.want)
        if self.form != "dense":
            likeliest = self.model.head.logits(outputs.last).argmax(-1)
            return kdtool.Signal("source", sparse=told_tokens(likeliest, self.form, self.temperature))
        inside = outputs.hidden, outputs.attentions, outputs.projections
        return kdtool.Signal("source", kdtool.LazyLogits(outputs.last, self.model.head), None, *inside)


@contextmanager
def gradients_of(model: nn.Module) -> Iterator[list[dict[str, Tensor]]]:
    """Collect the gradients of each step, by parameter."""
    found: list[dict[str, Tensor]] = []

    def catch(*_: Any) -> None:
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    handle = register_optimizer_step_pre_hook(catch)
    try:
        yield found
    finally:
        handle.remove()


def installed_losses(
    student: kdtool.ModelFacts,
    teacher: kdtool.ModelFacts,
    temperature: float = 1.0,
    left_out: Container[str] = (),
    tokenizer: kdtool.Tokenizer | None = None,
) -> Iterator[tuple[str, str, kdtool.Loss, kdtool.LossTerm]]:
    """Yield every installed loss, once for each form of signal that it accepts: its name, the form, itself and its term."""
    for point in sorted(entry_points(group="kdtool.losses")):
        cls: Any = point.load()
        settings = {"temperature": temperature} if cls.temperature_power and temperature != 1 else {}
        for need in alternatives(cls(cls.Config(**settings)).needs) or (frozenset(),):
            if point.name in left_out:
                continue
            loss = cls(cls.Config(**settings))
            if tokenizer and hasattr(loss, "tokenizers"):
                loss.tokenizers = tokenizer, tokenizer
            form = next((form for form in ("sampled", "top-k") if form in need), "dense")
            pairs = tuple(loss.kdtool_layers(student, teacher) or ()) if isinstance(loss, kdtool.SequenceLoss) else ()
            label = f"{point.name}-{form}"
            term = kdtool.LossTerm(
                f"losses.{label}", label, 1.0, loss.temperature, loss.temperature**loss.temperature_power,
                form if need else None, (need,) if need else (), loss.divergence, pairs,
                forward_passes=loss.forward_passes, routing=getattr(loss, "routing", False),
            )  # fmt: skip
            yield point.name, form, loss, term


def told_tokens(likeliest: Tensor, form: str, temperature: float) -> kdtool.SparseTokens:
    """Return three tokens and a gap for each position, some of them of no probability that a teacher would give."""
    shares = [0.5, 0.25, 0.25, 0.0] if form == "sampled" else [0.4, 0.3, 0.1, 0.0]
    ids = [*((likeliest + away) % VOCABULARY for away in (0, 7, 11)), torch.full_like(likeliest, -1)]
    weights = torch.stack([torch.full_like(likeliest, share, dtype=torch.float32) for share in shares], -1)
    told: Literal["sampled", "top-k"] = "sampled" if form == "sampled" else "top-k"
    return kdtool.SparseTokens(torch.stack(ids, -1).int(), weights, told, temperature)


def make_rows() -> ListSource:
    """Eight rows of two documents and some padding; one has hardly a label, one has none."""
    rng, rows = random.Random(0), []
    for index in range(8):
        cut, end = rng.randint(3, 7), LENGTH - rng.randint(0, 3)
        document = [0 if i < cut else 1 if i < end else -1 for i in range(LENGTH)]
        share = {0: 0.0, 1: 0.1}.get(index, 0.5 + index / 20)
        labelled = [number >= 0 and rng.random() < share for number in document]
        labelled[1] = index != 0
        ids = [rng.randrange(VOCABULARY) for _ in range(LENGTH)]
        rows.append(kdtool.Row(f"row{index}", ids, labelled, document, {"student_generated": [index % 2] * LENGTH}))
    return ListSource(rows)
