"""A student with experts learns to use them evenly, beside its other losses."""

from __future__ import annotations

import json
from pathlib import Path

import kdtool
import pytest
import torch
import torch.nn.functional as F
from kdtool_loss_ce import CrossEntropy, RouterBalance
from kdtool_testing import ListSource, make_run
from kdtool_testing.tiny_models import tiny_model
from kdtool_torch import collate
from kdtool_torch.trainer import StandardTrainer
from kdtool_transformers import TransformersModel
from reference_model import gradients_of
from torch import Tensor

LENGTH, ROWS, CHOSEN, WEIGHT = 24, 4, 2, 0.5
TERMS = (
    kdtool.LossTerm("losses.ce", "ce", 1.0),
    kdtool.LossTerm("losses.router-balance", "router-balance", WEIGHT, routing=True),
)


def rows() -> ListSource:
    """Return rows of two documents, the last row with padding."""
    ids = torch.randint(257, (ROWS, LENGTH), generator=torch.Generator().manual_seed(2)).tolist()
    ends = [LENGTH] * (ROWS - 1) + [LENGTH - 6]
    document = [[-1 if i >= end else int(i >= 10) for i in range(LENGTH)] for end in ends]
    return ListSource([kdtool.Row(str(n), ids[n], [of >= 0 for of in document[n]], document[n]) for n in range(ROWS)])


def student() -> TransformersModel:
    return tiny_model("mixtral", layers=2, num_local_experts=4, num_experts_per_tok=CHOSEN)


def train(folder: Path, accumulation: int) -> tuple[dict[str, Tensor], kdtool.Trained]:
    """Train for a step and return its gradients."""
    components: dict[str, kdtool.Component] = {
        "losses.ce": CrossEntropy(CrossEntropy.Config()),
        "losses.router-balance": RouterBalance(RouterBalance.Config()),
    }
    run = make_run(folder / "run", components, say=lambda _: None)
    phase = kdtool.Phase("experts", 1, TERMS, rows(), {}, folder / "checkpoints")
    batch = ROWS // accumulation
    trainer = StandardTrainer(
        StandardTrainer.Config(
            batch=batch, accumulation=accumulation, dtype="float32", learning_rate=1e-30, weight_decay=0, gradient_clip=0,
            log_every=1,
        )
    )  # fmt: skip
    model = student()
    with gradients_of(model.model) as found:
        trained = trainer.kdtool_train(run, phase, model)
    return found[0], trained


def expected(order: list[list[int]]) -> dict[str, Tensor]:
    """Return the gradients by transformers' own forward pass, document by document in float64, of these micro-batches."""
    model, made = student().model.double(), rows()
    model.set_experts_implementation("eager")  # grouped products do not compute in float64
    likelihoods, balances = [], []
    for numbers in order:
        routed: list[list[Tensor]] = [[], []]
        for number in numbers:
            batch = collate([made[number]])
            for of in sorted({*batch.document[0].tolist()} - {-1}):
                ids = batch.input_ids[:, batch.document[0] == of]
                outputs = model(ids, output_router_logits=True)
                for layer, logits in zip(routed, outputs.router_logits, strict=True):
                    layer.append(logits.view(-1, 4))
                likelihoods.append(F.cross_entropy(outputs.logits[0, :-1, :257], ids[0, 1:], reduction="sum"))
        labelled = [_balance(torch.cat(layer)) for layer in routed]
        balances.append(torch.stack(labelled).mean())
    tokens = sum(int((collate([row]).labels != -100).sum()) for row in map(made.__getitem__, range(ROWS)))
    (torch.stack(likelihoods).sum() / tokens + WEIGHT * torch.stack(balances).mean()).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _balance(logits: Tensor) -> Tensor:
    frequency = F.one_hot(logits.topk(CHOSEN).indices, 4).sum(1).double().mean(0)
    return 4 * (frequency * logits.softmax(-1).mean(0)).sum()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_are_those_of_each_micro_batch_s_balance(tmp_path: Path, accumulation: int) -> None:
    found, trained = train(tmp_path, accumulation)
    seen = [json.loads(line) for line in trained.history.read_text("utf-8").splitlines()]
    assert all(term["gradient_norm"] > 0 for term in seen[0]["terms"].values())
    orders = (
        [[[0, 1, 2, 3]]] if accumulation == 1 else [[[0, a], [b, c]] for a, b, c in ((1, 2, 3), (2, 1, 3), (3, 1, 2))]
    )
    assert any(_equal(found, expected(order)) for order in orders)


def _equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    assert found.keys() == wanted.keys()
    return all(float((found[n] - g).abs().max()) <= 1e-5 * max(1e-3, float(g.abs().max())) for n, g in wanted.items())
