"""Two steps of the standard trainer on a tiny student with a transform, here or in one of two processes; plain gradients.

The reference is autograd on full logits of all rows at once. Where a transform only changes how a student computes, it is
of the plain student; where it changes what the student computes, of the transformed one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import torch.nn.functional as F
from kdtool._contract.signals import alternatives
from kdtool_testing import ListSource, make_run
from kdtool_testing.tiny_models import tiny_model
from kdtool_torch import collate
from kdtool_torch.trainer import StandardTrainer
from kdtool_transformers import TransformersModel
from reference_model import Describing, Source, gradients_of
from torch import Tensor
from two_processes import write_gradients

LENGTH, ROWS, LAYER = 24, 4, 0
VOCABULARY = 260
"""More than the 257 tokens of the tokenizer, because GGUF files of it have one more."""
SAME_FUNCTION = {"compile", "freeze", "gradient-checkpointing", "liger"}
"""Transforms after which a student computes what it did before."""
LOSSES: dict[str, tuple[str, ...]] = {"token": ("forward-kl",), "layer": ("hidden",), "sequence": ("uld",)}
LOSSES["all"] = tuple(name for names in LOSSES.values() for name in names)

_HIDDEN = kdtool.SignalRequest(frozenset({"hidden"}), (LAYER,))

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A transform with losses, and the division of a step's four rows."""

    transform: str
    losses: str
    accumulation: int
    world: int

    @property
    def name(self) -> str:
        """Names folders and files."""
        return f"{self.transform}-{self.losses}-{self.accumulation}-{self.world}"


def transforms() -> list[str]:
    """Return the names of the installed transforms."""
    return sorted(point.name for point in entry_points(group="kdtool.transforms"))


def make_transform(name: str) -> kdtool.Transform:
    """Return an installed transform with its default settings."""
    (point,) = entry_points(group="kdtool.transforms", name=name)
    transform: type[kdtool.Transform] = point.load()
    return transform(transform.Config())


def make_student() -> TransformersModel:
    """Return a student with an untied head."""
    return tiny_model(layers=2, vocabulary=VOCABULARY, intermediate_size=64, tie_word_embeddings=False)


def make_rows() -> ListSource:
    """Return rows of two documents and some padding; one has hardly a label."""
    rng, rows = random.Random(0), []
    for index in range(ROWS):
        cut, end = rng.randint(5, 12), LENGTH - rng.randint(0, 4)
        document = [0 if i < cut else 1 if i < end else -1 for i in range(LENGTH)]
        labelled = [number >= 0 and rng.random() < (0.1 if index == 0 else 0.7) for number in document]
        labelled[1] = True
        rows.append(kdtool.Row(str(index), [rng.randrange(257) for _ in range(LENGTH)], labelled, document))
    return ListSource(rows)


def make_teacher() -> TransformersModel:
    """Return a wider model, so that losses of layers train a projector."""
    return tiny_model(layers=2, vocabulary=VOCABULARY, seed=1, hidden_size=48)


def terms(losses: str) -> tuple[dict[str, kdtool.Component], list[kdtool.LossTerm]]:
    """Return the losses' components and terms."""
    components: dict[str, kdtool.Component] = {}
    found = []
    for name in LOSSES[losses]:
        (point,) = entry_points(group="kdtool.losses", name=name)
        cls: Any = point.load()
        components[f"losses.{name}"] = loss = cls(cls.Config())
        pairs = ((LAYER, LAYER),) if name == "hidden" else ()
        label, needs = f"losses.{name}", alternatives(loss.needs)[:1]
        found.append(
            kdtool.LossTerm(label, name, 1.0, 1.0, 1.0, "teacher", needs, divergence=loss.divergence, layers=pairs)
        )
    return components, found


def change(
    transform: kdtool.Transform, student: TransformersModel, run: kdtool.RunInfo
) -> tuple[Iterator[Any], TransformersModel]:
    """Return the student as a transform changes it for a phase, and the transform's generator, which is never ended."""
    result: Any = transform.kdtool_transform(student, run)
    begun = result if isinstance(result, Iterator) else iter([result])
    return begun, next(begun) or student


@contextmanager
def kernels_for_a_gpu() -> Iterator[None]:
    """Put stand-ins in the place of liger's kernels, and of the compiler of machine code, which takes many seconds."""
    from kdtool_transformers import fast_layers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_layers, "_BACKEND", "aot_eager")
        patch.setattr(fast_layers, "kernels", lambda: fast_layers.Kernels(_rms_norm, _InPlace.apply, _rotate))
        yield


def train(folder: Path, case: Case, rank: int = 0) -> list[Gradients]:
    """Train as one of the case's processes and return the gradients of both steps, by parameter."""
    student, transform = make_student(), make_transform(case.transform)
    components, of_phase = terms(case.losses)
    components["teacher"] = describing = Describing(Describing.Config())
    describing.facts = make_teacher().facts
    run = make_run(folder / "run", components, say=lambda _: None, rank=rank, world=case.world)
    phase = kdtool.Phase(
        "matrix", 2, tuple(of_phase), make_rows(), {"teacher": Source(make_teacher(), _HIDDEN)}, folder / "checkpoints"
    )
    settings = {"batch": ROWS // case.accumulation // case.world, "accumulation": case.accumulation}
    settings |= {"head_chunk_size": 11, "loss_chunk_size": 5, "checkpoint_every": 1000, "log_every": 1000}
    still = {"learning_rate": 1e-30, "weight_decay": 0.0, "gradient_clip": 0.0, "dtype": "float32", "compile": "off"}
    trainer = StandardTrainer(StandardTrainer.Config.model_validate({**settings, **still}))
    with kernels_for_a_gpu():
        _begun, student = change(transform, student, run)
        with gradients_of(student.model) as found:
            trainer.kdtool_train(run, phase, student)
    return found


def train_as_rank(folder: Path, cases: Sequence[Case], rank: int, ports: Sequence[int]) -> None:
    """Train each case as one of its processes; rank 0 writes the gradients into the folder."""
    write_gradients(train, folder, cases, rank, ports)


def reference(folder: Path, transform: str, losses: str) -> Gradients:
    """Return the gradients of parameters that learn, from full logits and autograd."""
    student, teacher, run = make_student(), make_teacher(), make_run(folder, say=lambda _: None)
    if transform == "freeze" or transform not in SAME_FUNCTION:
        _begun, student = change(make_transform(transform), student, run)
    names = {name for name, parameter in student.model.named_parameters() if parameter.requires_grad}
    rows = make_rows()
    batch = collate([rows[row] for row in range(ROWS)])
    student.model.train()
    mine, other = student.backbone(batch, _HIDDEN), Source(teacher, _HIDDEN).signal(batch)
    assert other.lazy is not None
    q = student.head.logits(mine.last).softmax(-1)
    p = other.lazy.head.logits(other.lazy.hidden).softmax(-1).detach()
    values = {
        "forward-kl": (p * (p / q).log()).sum(-1),
        "hidden": _hidden(mine.hidden[LAYER], other.hidden[LAYER]),
        "uld": (q.sort(-1).values - p.sort(-1).values).abs().sum(-1),
    }
    objective = torch.stack([values[name].mean() for name in LOSSES[losses]]).sum()
    learning = {name: parameter for name, parameter in student.model.named_parameters() if name in names}
    found = torch.autograd.grad(objective, list(learning.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(learning, found, strict=True))


def _hidden(student: Tensor, teacher: Tensor) -> Tensor:
    torch.manual_seed(0)  # as the trainer seeds projectors
    projector = torch.nn.Linear(student.shape[-1], teacher.shape[-1], bias=False)
    student, teacher = (
        states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt() for states in (projector(student), teacher)
    )
    distance: Tensor = (student - teacher).square().mean(-1)
    return distance


class _InPlace(torch.autograd.Function):
    """SwiGLU whose backward overwrites what it saved with the gradients, as liger's does: it is right only once."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.kept = gate.detach().clone(), up.detach().clone()
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor, ...]:
        gate, up = ctx.kept
        sigmoid = gate.sigmoid()
        by_gate = incoming * up * (sigmoid + gate * sigmoid * (1 - sigmoid))
        by_up = incoming * gate * sigmoid
        return gate.copy_(by_gate), up.copy_(by_up)


def _rms_norm(x: Tensor, weight: Tensor, eps: float, *_: Any, **__: Any) -> Tensor:
    return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def _rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, _: None, unsqueeze_dim: int) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def turn(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    return turn(q), turn(k)


def worst_difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest difference of a parameter's gradients, as a share of its norm or a little of the whole."""
    assert found.keys() == expected.keys()
    whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    assert whole > 1e-4, "nothing is learned here"
    away = [(found[name] - gradient).norm() / (gradient.norm() + 1e-2 * whole) for name, gradient in expected.items()]
    return float(torch.stack(away).max())
