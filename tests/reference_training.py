"""One phase of the standard trainer that shows each loss's gradient by itself, here or in one of several processes.

All losses are terms of one phase of as many steps and one more: at the first all count, at each later one a weighting
balances all terms but one away. The learning rate is too small to change a weight, and a step's rows are all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kdtool
from kdtool_testing import make_run
from kdtool_torch.trainer import StandardTrainer
from reference_model import Describing, Source, gradients_of, installed_losses, make_model, make_rows
from torch import Tensor
from two_processes import write_gradients

STUDENT, TEACHER = (1, 3, 16), (2, 4, 12)
"""Seed, layers and width."""
TEMPERATURE = 2.0
"""Of the losses that have one."""
ELSEWHERE = {
    "preference": "compares whole answers to a prompt: losses/preference, and the trainer's tests of rejected text",
    "router-balance": "needs experts, and depends on how a step is cut: losses/ce, and test_experts.py",
}
"""Losses that this training is not for, with what tests them."""
ALL_KINDS: frozenset[kdtool.SignalKind] = frozenset({"logits", "hidden", "attentions", "projections"})
FACTOR = 1.5
"""Factor of the weighting on the one term that counts."""


@dataclass(frozen=True)
class Cut:
    """Division of a step's eight rows: positions of a chunk (0: the default), micro-batches, processes."""

    chunk: int
    accumulation: int
    world: int

    @property
    def name(self) -> str:
        """Names files."""
        return f"{self.chunk}-{self.accumulation}-{self.world}"


def cases() -> dict[str, tuple[kdtool.Loss, kdtool.LossTerm]]:
    """Return every installed loss, once for each form of signal that it accepts, with its term; weights are doubled."""
    student, teacher = (make_model(*model).facts for model in (STUDENT, TEACHER))
    found: dict[str, tuple[kdtool.Loss, kdtool.LossTerm]] = {}
    for _, _, loss, term in installed_losses(student, teacher, TEMPERATURE, ELSEWHERE):
        weight = 0.5 + len(found) / 10
        found[term.label] = loss, replace(term, weight=kdtool.Schedule(weight, 2 * weight))
    return found


def weight_at(term: kdtool.LossTerm, step: int, steps: int) -> float:
    """Return a term's weight at a step from 1 on: its schedule is a line to twice its beginning."""
    assert isinstance(term.weight, kdtool.Schedule)
    return term.weight.start * (1 + (step - 1) / (steps - 1))


class OneByOne(kdtool.Weighting):
    """Balances all terms but one away, from the second step on, and counts some tokens for more."""

    def kdtool_balance(self, terms: Mapping[str, kdtool.TermReport], step: int, state: Any) -> Mapping[str, float]:
        return {name: FACTOR * (number == step - 2) for number, name in enumerate(terms)}

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        return token_weights(chunk.positions)


def token_weights(positions: Tensor) -> Tensor:
    """Return what counts for more."""
    return 0.5 + (positions % 3) / 2


def train_each(folder: Path, cut: Cut, rank: int = 0, by_hand: bool = True) -> list[dict[str, Tensor]]:
    """Train as one of the cut's processes and return the gradients of each step, by parameter.

    Without `by_hand` autograd finds all gradients.
    """
    student, teacher = make_model(*STUDENT), make_model(*TEACHER)
    losses, terms = zip(*cases().values(), strict=True)
    components: dict[str, kdtool.Component] = {term.name: loss for loss, term in zip(losses, terms, strict=True)}
    for loss in losses if not by_hand else ():
        if isinstance(loss, kdtool.TokenLoss):
            loss.__class__ = type("AutogradAlone", (type(loss),), {"kdtool_token_gradient": _NOTHING})
    components |= {"weightings.one": OneByOne(OneByOne.Config())}
    for form in ("dense", "sampled", "top-k"):
        components[form] = told = Describing(Describing.Config())
        told.facts = teacher.facts
    want = kdtool.SignalRequest(ALL_KINDS, tuple(sorted({theirs for term in terms for _, theirs in term.layers})))
    signals = {form: Source(teacher, want, form, TEMPERATURE) for form in ("dense", "sampled", "top-k")}
    run = make_run(folder / "run", components, say=lambda _: None, rank=rank, world=cut.world)
    phase = kdtool.Phase("all", len(terms) + 1, tuple(terms), make_rows(), signals, folder / "checkpoints")
    settings: dict[str, Any] = {"batch": 8 // cut.accumulation // cut.world, "accumulation": cut.accumulation}
    settings |= {"learning_rate": 1e-30, "weight_decay": 0.0, "gradient_clip": 0.0, "log_every": 1000}
    settings |= {"dtype": "float32", "compile": "off", "checkpoint_every": 1000}
    settings |= {"head_chunk_size": 1 if cut.chunk == 1 else 11, "loss_chunk_size": cut.chunk} if cut.chunk else {}
    trainer = StandardTrainer(StandardTrainer.Config(**settings))
    with gradients_of(student.model) as found:
        trainer.kdtool_train(run, phase, student)
    return found


def train_as_rank(folder: Path, cuts: Sequence[Cut], rank: int, ports: Sequence[int]) -> None:
    """Train with each cut as one of its processes; rank 0 writes the gradients into the folder."""
    write_gradients(train_each, folder, cuts, rank, ports)


_NOTHING = vars(kdtool.TokenLoss)["kdtool_token_gradient"]
