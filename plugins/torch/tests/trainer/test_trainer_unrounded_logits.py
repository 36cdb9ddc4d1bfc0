"""Losses get unrounded logits where the device returns float32 from products in half precision, as CUDA does."""

from __future__ import annotations

from pathlib import Path

import kdtool
import pytest
import torch
from kdtool_testing import make_run
from kdtool_torch import head as head_module
from kdtool_torch import numerics
from kdtool_torch.head import HeadWork, head_loss, sequence_head
from kdtool_torch.terms import Chunk, ChunkLoss, bind_terms
from torch import Tensor
from trainer_models import KL, kl_term, make_phase, mixture

VOCABULARY, PADDED, WIDTH, COUNT = 61, 64, 32, 40
HALF = torch.bfloat16


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that returns float32 from products of half-precision operands."""

    def unrounded(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
        assert a.dtype == b.dtype == HALF
        return torch.mm(a.float(), b.float(), out=out)

    for module in (numerics, head_module):
        monkeypatch.setattr(module, "returns_float32", lambda _device, dtype: dtype == HALF)
        monkeypatch.setattr(module, "product_in_float32", unrounded)


class Seen(KL):
    """Notes the dtypes of logits, student's and teacher's, and how many positions come at once."""

    seen: set[tuple[torch.dtype, torch.dtype]]
    most: int

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> Tensor:
        assert isinstance(chunk.teacher, kdtool.DenseTokens)
        self.seen.add((chunk.student_logits.dtype, chunk.teacher.logits.dtype))
        self.most = max(self.most, len(chunk.student_logits))
        return super().kdtool_token_loss(chunk)


def head_gradients(folder: Path, dtype: torch.dtype) -> tuple[list[Tensor], Seen]:
    """Return gradients by states and weight of a divergence by the chunked head, with products in `dtype`."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(HALF).to(torch.promote_types(dtype, torch.float32))

    weight, hidden = draw(PADDED, WIDTH).requires_grad_(), draw(COUNT, WIDTH).requires_grad_()
    taught = kdtool.LazyLogits(draw(COUNT, WIDTH).to(dtype), kdtool.Head(draw(PADDED, WIDTH).to(dtype), VOCABULARY))
    signals = {"teacher": kdtool.Signal("t", taught)}
    loss = Seen(KL.Config())
    loss.seen, loss.most = set(), 0
    run = make_run(folder, {**mixture(), "losses.kl": loss})
    terms = bind_terms(run, make_phase(folder, [kl_term("losses.kl")]), signals)
    of_chunk = ChunkLoss(terms, [])
    labels = torch.zeros(COUNT, dtype=torch.int64)
    rows = Chunk(labels, labels, {}, torch.tensor([1.5]), torch.zeros(()), torch.zeros(()))
    head = kdtool.Head(weight, VOCABULARY, None, 0.7, 9.0)
    work = HeadWork(of_chunk, rows, signals, [hidden], head, dtype, 17, 5)
    return list(torch.autograd.grad(head_loss(work, torch.tensor(7.0)), [hidden, weight])), loss


def error(folder: Path) -> float:
    """Return the relative error of the gradient by the states in bfloat16."""
    (exact, _), _ = head_gradients(folder, torch.float64)
    (found, _), _ = head_gradients(folder, HALF)
    return float((found - exact).norm() / exact.norm())


def test_token_losses_get_them_a_few_positions_at_a_time(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (_, loss), rounded = head_gradients(tmp_path, HALF), error(tmp_path)
    assert loss.seen == {(HALF, HALF)}
    request.getfixturevalue("as_on_cuda")
    (_, loss), unrounded = head_gradients(tmp_path, HALF), error(tmp_path)
    assert loss.seen == {(torch.float32, torch.float32)}
    assert loss.most == 5
    assert unrounded < 0.5 * rounded


@pytest.mark.usefixtures("as_on_cuda")
def test_sequence_losses_get_them() -> None:
    weight, states = torch.randn(PADDED, WIDTH), torch.randn(COUNT, WIDTH)
    head = sequence_head(kdtool.Head(weight.requires_grad_(), VOCABULARY), HALF)
    with torch.autocast("cpu", HALF):
        assert head.logits(states).dtype == torch.float32
