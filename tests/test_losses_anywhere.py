"""Token losses outside of kdtool: in a bare loop and in `transformers.Trainer`, equal to plain formulas on full logits."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
import torch.nn.functional as F
from counted_syncs import CountedSyncs
from kdtool_loss_ce import CrossEntropy
from kdtool_loss_divergences import ForwardKL
from kdtool_torch import chunked_loss
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

B, L, H, V = 2, 9, 8, 41


def token_losses() -> dict[str, kdtool.TokenLoss]:
    """Every installed token loss of one pass, at temperature 2 if it has one."""
    found = {}
    for point in sorted(entry_points(group="kdtool.losses")):
        cls: Any = point.load()
        if issubclass(cls, kdtool.TokenLoss) and cls.forward_passes == 1:
            found[point.name] = cls(cls.Config(**({"temperature": 2.0} if cls.temperature_power else {})))
    return found


class Case:
    """Random states, head, labels and teacher."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.hidden = torch.randn(B, L, H, requires_grad=True)
        self.weight = torch.randn(V + 3, H, requires_grad=True)
        self.bias = torch.randn(V + 3, requires_grad=True)
        self.head = kdtool.Head(self.weight, V, self.bias, 0.7, 5.0)
        self.labels = torch.randint(V, (B, L)).masked_fill(torch.rand(B, L) < 0.3, -100)
        self.lazy = kdtool.LazyLogits(torch.randn(B, L, 5), kdtool.Head(torch.randn(V, 5), V))
        self.columns = {"student_generated": torch.randint(2, (B, L))}
        shares = torch.tensor([0.5, 0.25, 0.125, 0.0]).expand(B, L, 4)
        ids = (torch.randint(V, (B, L, 1)) + torch.tensor([0, 3, 11, 20])) % V
        self.sparse = {
            form: kdtool.SparseTokens(ids, shares / (0.875 if form == "sampled" else 1.0), form, 2.0)
            for form in ("sampled", "top-k")
        }

    def teachers(self, loss: kdtool.TokenLoss) -> list[tuple[Any, Any]]:
        """Return teachers for a loss, each also at the labelled positions as the contract has it."""
        asked = self.labels != -100
        dense = self.lazy.head.logits(self.lazy.hidden)
        kinds = {kind for need in ([loss.needs] if isinstance(loss.needs, str) else loss.needs) for kind in [need]}
        if not kinds:
            return [(None, None)]
        found: list[tuple[Any, Any]] = [(teacher, kdtool.DenseTokens(dense[asked])) for teacher in (dense, self.lazy)]
        found += [
            (sparse, kdtool.SparseTokens(sparse.ids[asked], sparse.weights[asked], sparse.form, 2.0))
            for form, sparse in self.sparse.items()
            if form in kinds
        ]
        return found

    def expected(self, loss: kdtool.TokenLoss, tokens: Any) -> Tensor:
        """Return the mean loss on full logits."""
        asked = self.labels != -100
        positions = torch.arange(L).expand(B, L)[asked]
        logits = self.head.logits(self.hidden[asked])
        zero = torch.zeros(())
        columns = {name: column[asked] for name, column in self.columns.items()}
        about = positions, loss.temperature, zero, zero.long(), columns
        chunk = kdtool.TokenChunk(logits, self.labels[asked], tokens, *about)
        return loss.kdtool_token_loss(chunk).mean() * loss.temperature**loss.temperature_power

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, (self.hidden, self.weight, self.bias))


@pytest.mark.parametrize("chunk_size", [1, 7, None])
@pytest.mark.parametrize("name", token_losses())
def test_value_and_gradients_are_those_of_full_logits(name: str, chunk_size: int | None) -> None:
    loss, case = token_losses()[name], Case()
    for teacher, tokens in case.teachers(loss):
        arguments = {"teacher": teacher, "columns": case.columns, "chunk_size": chunk_size}
        found = chunked_loss(loss, case.hidden, case.head, case.labels, **arguments)
        expected = case.expected(loss, tokens)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(case.gradients(2 * found), case.gradients(2 * expected), rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            again = chunked_loss(loss, case.hidden, case.head, case.labels, **arguments)
        assert torch.equal(again, found)


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the number of elements of the largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_logits_of_the_batch_never_exist() -> None:
    vocabulary, count = 500, 64
    hidden, weight = torch.randn(count, H, requires_grad=True), torch.randn(vocabulary, H, requires_grad=True)
    lazy = kdtool.LazyLogits(torch.randn(count, 4), kdtool.Head(torch.randn(vocabulary, 4), vocabulary))
    with LargestTensor() as seen:  # type: ignore[no-untyped-call]
        labels = torch.randint(vocabulary, (count,))
        loss = chunked_loss(ForwardKL(ForwardKL.Config()), hidden, weight, labels, lazy, chunk_size=8)
        loss.backward()  # type: ignore[no-untyped-call]
    assert seen.largest == 8 * vocabulary
    assert hidden.grad is not None
    assert weight.grad is not None


def test_a_gpu_waits_once() -> None:
    loss, case = ForwardKL(ForwardKL.Config(temperature=2.0)), Case()
    with CountedSyncs() as counted:
        chunked_loss(loss, case.hidden, case.weight, case.labels, case.sparse["top-k"], chunk_size=5).backward()  # type: ignore[no-untyped-call]
    assert counted.total == 1, counted.lines


def test_a_batch_without_labels_has_gradients_of_zero() -> None:
    case = Case()
    loss = chunked_loss(CrossEntropy(CrossEntropy.Config()), case.hidden, case.head, torch.full((B, L), -100))
    assert loss.item() == 0
    assert all(gradient.count_nonzero() == 0 for gradient in case.gradients(loss))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "ForwardKL learns from a teacher, but `teacher` is None"),
        ({"teacher": torch.zeros(B, L, V - 1)}, f"has {V - 1} tokens, expected at least the student's {V}"),
        (
            {"teacher": torch.zeros(B, L - 1, V)},
            r"`teacher` has positions \(2, 8\), expected those of `labels`, \(2, 9\)",
        ),
        ({"labels": torch.zeros(B, L - 1, dtype=torch.int64)}, r"`hidden` has positions \(2, 9\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    case = Case()
    arguments: dict[str, Any] = {
        "hidden": case.hidden,
        "head": case.head,
        "labels": case.labels,
        "teacher": case.lazy,
    } | changes
    with pytest.raises(kdtool.UsageError, match=message):
        chunked_loss(ForwardKL(ForwardKL.Config()), **(arguments | changes))


def model(seed: int, width: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shapes = {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}
    config = LlamaConfig(vocab_size=V, hidden_size=width, intermediate_size=16, tie_word_embeddings=False, **shapes)
    return LlamaForCausalLM(config)


class Distilling(Trainer):  # type: ignore[misc]
    """Three lines of kdtool in a trainer of transformers."""

    teacher = model(1, 16).eval()
    divergence = ForwardKL(ForwardKL.Config(temperature=2.0))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        labels = F.pad(inputs["labels"], (0, 1), value=-100)[:, 1:]
        with torch.no_grad():
            teacher = self.teacher(input_ids=inputs["input_ids"]).logits
        hidden, weight = model.model(input_ids=inputs["input_ids"]).last_hidden_state, model.lm_head.weight
        return chunked_loss(
            self.divergence, hidden, weight, labels, teacher, num_items_in_batch=num_items_in_batch, chunk_size=5
        )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_transformers_trainer_learns_as_a_bare_loop_on_full_logits(tmp_path: Path, accumulation: int) -> None:
    torch.manual_seed(3)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(V, (8, L))]
    student, other = model(2, H), model(2, H)
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4 // accumulation, gradient_accumulation_steps=accumulation,
        max_steps=4, learning_rate=10.0, lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, report_to=[],
        save_strategy="no", disable_tqdm=True, optim="sgd", train_sampling_strategy="sequential",
    )  # fmt: skip
    Distilling(student, arguments, train_dataset=rows).train()
    optimiser = torch.optim.SGD(other.parameters(), lr=10.0)
    for step in range(4):
        ids = torch.stack([row["input_ids"] for row in rows[4 * (step % 2) : 4 * (step % 2) + 4]])
        with torch.no_grad():
            taught = (Distilling.teacher(input_ids=ids).logits[:, :-1] / 2).log_softmax(-1)
        learned = (other(input_ids=ids).logits[:, :-1] / 2).log_softmax(-1)
        (4 * F.kl_div(learned, taught, log_target=True, reduction="sum") / learned[..., 0].numel()).backward()
        optimiser.step()
        optimiser.zero_grad()
    before = dict(model(2, H).named_parameters())
    for name, weight in student.named_parameters():
        torch.testing.assert_close(weight, other.get_parameter(name), rtol=1e-5, atol=1e-6)
        assert not torch.equal(weight, before[name]), name
