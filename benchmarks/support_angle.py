"""Reverse KL on a few tokens against that on all of them: angle of the gradient by the weights, and loss.

    python benchmarks/support_angle.py [--rows 8] [--length 256] [--steps 60]

Teacher SmolLM2-135M, student the quickstart's: 20 of its 30 layers. Rows are of Python's standard library; labels are all
tokens but the first. Measured on the student as it is cut, and after some steps of forward KL on other rows. `student`
supports are the student's likeliest tokens (`reverse-kl` with `support`), `teacher` ones the teacher's, with the rest as one
bucket in both.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import kdtool
import torch
from kdtool_loss_divergences import forward_kl, reverse_kl, support_from_chosen, support_from_logits, support_reverse_kl
from kdtool_teacher_smollm2 import SmolLM2
from kdtool_testing import make_run
from kdtool_torch import collate
from sampled_signals import rows_of
from torch import Tensor, nn

KEPT = (0, 1, 2, 8, 9, 10, 11, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 27, 28, 29)
Loss = Callable[[Tensor, Tensor], Tensor]
"""A divergence of student's and teacher's logits, [C, V] each."""


def on_teacher_s(size: int) -> Loss:
    """Return reverse KL on the teacher's likeliest tokens."""

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        logs = teacher.log_softmax(-1).topk(size)
        return support_reverse_kl(student, support_from_chosen(logs.indices, logs.values, size))

    return loss


def on_student_s(size: int) -> Loss:
    """Return reverse KL on the student's likeliest tokens."""
    return lambda student, teacher: support_reverse_kl(student, support_from_logits(student, teacher, 1.0, size))


LOSSES: dict[str, Loss] = {
    "all tokens": reverse_kl,
    **{f"student {size}": on_student_s(size) for size in (4, 16, 64)},
    **{f"teacher {size}": on_teacher_s(size) for size in (4, 16, 64)},
}


def cut(model: nn.Module) -> nn.Module:
    """Return a copy of the model with the layers of the quickstart's student."""
    student: nn.Module = copy.deepcopy(model)
    decoder = student.get_submodule("model")
    layers = student.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    decoder.layers = nn.ModuleList(layers[index] for index in KEPT)
    for index, layer in enumerate(decoder.layers):
        layer.self_attn.layer_idx = index
    student.config.num_hidden_layers = len(KEPT)
    return student.requires_grad_(True)


def logits_of(model: nn.Module, batch: kdtool.Batch) -> Tensor:
    """Return a model's logits of a batch, [N, V]."""
    logits: Tensor = model(input_ids=batch.input_ids, use_cache=False).logits
    return logits[batch.labels != -100].float()


def measure(student: nn.Module, teacher: nn.Module, batches: list[kdtool.Batch]) -> Iterator[tuple[str, float, float]]:
    """Yield for each loss its mean value, and the angle in degrees between its gradient and that of all tokens."""
    parameters, reference = [p for p in student.parameters() if p.requires_grad], torch.zeros(())
    for name, loss in LOSSES.items():
        student.zero_grad()
        value = 0.0
        for batch in batches:
            with torch.no_grad():
                target = logits_of(teacher, batch)
            mean = loss(logits_of(student, batch), target).mean() / len(batches)
            mean.backward()  # type: ignore[no-untyped-call]
            value += float(mean.detach())
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).double()
        reference = gradient if loss is reverse_kl else reference
        cosine = float(gradient @ reference / (gradient.norm() * reference.norm()))
        yield name, value, math.degrees(math.acos(min(1.0, cosine)))


def train(student: nn.Module, teacher: nn.Module, batches: list[kdtool.Batch]) -> None:
    """Train the student by forward KL, one step per batch."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-4)
    for batch in batches:
        with torch.no_grad():
            target = logits_of(teacher, batch)
        optimizer.zero_grad()
        forward_kl(logits_of(student, batch), target).mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()


def main() -> int:
    """Measure before and after training, and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        source = SmolLM2(SmolLM2.Config(dtype="float32"))
        run = make_run(Path(name), {"teacher": source})
        rows = rows_of(run, source, options.rows + options.steps, options.length)
        runtime = source.kdtool_open(run, kdtool.Subject("teacher", "teacher"))
        assert runtime is not None
        assert runtime.model is not None
        teacher = runtime.model.model.requires_grad_(False).eval()
        student = cut(teacher)
        batches = [collate([row]) for row in rows]
        for title in ("as cut", f"after {options.steps} steps"):
            print(f"{title}: {options.rows} rows of {options.length} tokens")
            for label, value, angle in measure(student, teacher, batches[: options.rows]):
                print(f"  {label:<12} loss {value:7.4f} nats   angle {angle:6.2f} degrees")
            if title == "as cut":
                train(student, teacher, batches[options.rows :])
    return 0


if __name__ == "__main__":
    sys.exit(main())
