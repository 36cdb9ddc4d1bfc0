"""Measure the transform `compile`: a step's forward and backward with and without it, in turn, in one process.

    python benchmarks/compile_ratio.py [--layers 10] [--rows 2] [--length 256] [--steps 10] [--dtype float32]

Random weights in SmolLM2-135M's shape with fewer layers; the head is left out: losses are compiled by the trainer's own
setting. Seconds of processor time are counted beside those of the clock, so that other work on a CPU matters less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import kdtool
import torch
from kdtool_testing import make_run
from kdtool_testing.tiny_models import tiny_model
from kdtool_torch import pick_device
from kdtool_transformers import TransformersModel
from kdtool_transformers.transforms import Compile

SHAPE: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


class Seconds(NamedTuple):
    """Seconds of a step by the clock and on the processor."""

    clock: float
    processor: float


def main() -> None:
    """Print seconds of a step, plain and compiled, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options = parser.parse_args()
    device, dtype = pick_device(), getattr(torch, options.dtype)
    plain, compiled = (tiny_model(layers=options.layers, **SHAPE) for _ in range(2))
    for student in (plain, compiled):
        student.model.to(device)
    next(Compile(Compile.Config()).kdtool_transform(compiled, make_run(Path(tempfile.mkdtemp()))))
    batch = _batch(options.rows, options.length, device)
    first = _step(compiled, batch, dtype)
    print(
        f"the first compiled step, with compiling: {first.clock:.0f} s ({first.processor:.0f} s of processor)",
        flush=True,
    )
    _step(plain, batch, dtype)
    found = [(_step(plain, batch, dtype), _step(compiled, batch, dtype)) for _ in range(options.steps)]
    for name in Seconds._fields:
        one, other = (median(getattr(pair[arm], name) for pair in found) for arm in (0, 1))
        print(f"{name:>9}: plain {one:.3f} s/step, compiled {other:.3f} s/step, ratio {one / other:.2f}")


def _batch(rows: int, length: int, device: torch.device) -> kdtool.Batch:
    ids = torch.randint(257, (rows, length), generator=torch.Generator().manual_seed(0)).to(device)
    positions = torch.arange(length, device=device).expand(rows, length)
    document = torch.zeros(rows, length, dtype=torch.int32, device=device)
    return kdtool.Batch(ids, positions, ids, document, tuple(map(str, range(rows))))


def _step(student: TransformersModel, batch: kdtool.Batch, dtype: torch.dtype) -> Seconds:
    clock, processor = time.perf_counter(), time.process_time()
    student.model.train()
    student.model.zero_grad()
    with torch.autocast(batch.input_ids.device.type, dtype, enabled=dtype != torch.float32):
        loss = student.backbone(batch, kdtool.SignalRequest()).last.float().square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    if batch.input_ids.is_cuda:
        torch.cuda.synchronize()
    return Seconds(time.perf_counter() - clock, time.process_time() - processor)


if __name__ == "__main__":
    main()
