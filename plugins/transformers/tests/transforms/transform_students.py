"""Small students for tests of transforms: transformed, trained for a few steps, and compared by their logits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kdtool
import torch
from kdtool_testing import TransformConformance, make_run
from kdtool_testing.tiny_models import packed_batch, tiny_model
from kdtool_transformers import TransformersModel

IDS = torch.arange(3, 23)[None]


class SmallConformance(TransformConformance):
    """The suite of a transform on a small Llama."""

    def student(self, folder: Path) -> kdtool.LanguageModel:
        return tiny_model(layers=2)


def start(
    kind: Any, student: TransformersModel, folder: Path, run: kdtool.RunInfo | None = None, **settings: Any
) -> Iterator[kdtool.LanguageModel]:
    """Transform the student; the next step of what is returned finishes."""
    training: Iterator[kdtool.LanguageModel] = kind(kind.Config(**settings)).kdtool_transform(
        student, run or make_run(folder)
    )
    next(training)
    return training


def learn(student: TransformersModel, steps: int = 3) -> dict[str, torch.Tensor]:
    """Train with AdamW, whose weight decay shows in weights that ought to stay, and return the last gradients."""
    model = student.model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        student.backbone(packed_batch(), kdtool.SignalRequest()).last.square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def logits(model: Any) -> torch.Tensor:
    """Return the logits of a few tokens."""
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits.float()
    return found


def away(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far logits are from others, as a share of their spread."""
    return float((one - other).square().mean().sqrt() / other.std())


def structure(student: TransformersModel) -> list[tuple[str, type]]:
    """Return the names of its modules with their classes."""
    return [(name, type(module)) for name, module in student.model.named_modules()]
