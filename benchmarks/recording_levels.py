"""Size and speed of recorded tokens by zstd's level: encode and decode what a real model recorded, at each level.

    python benchmarks/recording_levels.py [--rows 24] [--length 512] [--levels 1 3 6 12 19]

Teacher SmolLM2-135M on Python's standard library; the caches `sampled`, 20 samples, and `top-k`, 100 tokens. The teacher's
pass is timed while it records. All seconds are processor time of one thread.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import thread_time

import kdtool
import numpy as np
import torch
from kdtool_teacher_smollm2 import SmolLM2
from kdtool_testing import ListSource, make_run
from kdtool_torch import NO_LABEL, RecordedRows, collate
from kdtool_torch.caches import Sampled, TopK
from kdtool_torch.caches.codec import decode, encode
from kdtool_torch.caches.tokens import TOKENS
from numpy.typing import NDArray
from sampled_signals import BATCH, Timed, rows_of

__all__ = ["main"]

Ints = NDArray[np.int64]
Row = tuple[Ints, Ints, Ints]
"""Tokens, their values, and labels: the arguments of `encode`."""


def time_best(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the processor seconds of the fastest of several calls."""
    seconds = []
    for _ in range(repeats):
        start = thread_time()
        work()
        seconds.append(thread_time() - start)
    return min(seconds)


def encode_rows(rows: Sequence[Row], total: int | None, level: int) -> list[bytes]:
    """Encode each row."""
    return [encode(ids, values, labels, total, level) for ids, values, labels in rows]


def decode_rows(blobs: Sequence[bytes], labels: Sequence[Ints], total: int | None) -> list[Row]:
    """Decode each row."""
    decoded = [(decode([blob], known, total), known) for blob, known in zip(blobs, labels, strict=True)]
    return [(ids.astype(np.int64), values.astype(np.int64), known) for (ids, values), known in decoded]


def print_levels(folder: Path, batch: kdtool.Batch, levels: Sequence[int]) -> None:
    """Print bytes per token and tokens per second of each level, for the rows of a batch that a folder contains."""
    recorded = RecordedRows(folder)
    recorded_blobs = [piece.numpy().tobytes() for piece in recorded.pieces(recorded.find(batch), TOKENS.format(0))]
    labels = [row[row != NO_LABEL].numpy() for row in batch.labels]
    total, tokens = recorded.facts["total"], sum(map(len, labels))
    rows = decode_rows(recorded_blobs, labels, total)
    print("| level | bytes per token | encoded tokens/s | decoded tokens/s |\n|---|---|---|---|")
    for level in levels:
        blobs = encode_rows(rows, total, level)
        encoding = time_best(partial(encode_rows, rows, total, level))
        decoding = time_best(partial(decode_rows, blobs, labels, total))
        size = sum(map(len, blobs)) / tokens
        print(f"| {level} | {size:.2f} | {tokens / encoding:,.0f} | {tokens / decoding:,.0f} |", flush=True)


def main() -> None:
    """Record with each cache, and print a table for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 3, 6, 12, 19])
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = SmolLM2(SmolLM2.Config())
    caches = (Sampled(Sampled.Config(samples=20, batch=BATCH)), TopK(TopK.Config(k=100, batch=BATCH)))
    for cache in caches:
        with tempfile.TemporaryDirectory() as path:
            folder = Path(path)
            run = make_run(folder, {"teacher": teacher}, say=lambda _: None)
            rows = rows_of(run, teacher, options.rows, options.length)
            want = kdtool.SignalRequest(frozenset({cache.form}))
            source = Timed(teacher, cache.records(want, frozenset({"logits"})))
            source.signal(collate(rows[:1]))  # the weights load
            source.seconds = 0.0
            cache.kdtool_record(run, ListSource(rows), source, folder)
            tokens = options.rows * (options.length - 1)
            print(f"\n{cache.form}: the teacher's pass {tokens / source.seconds:,.0f} tokens/s\n")
            print_levels(folder, collate(rows), options.levels)


if __name__ == "__main__":
    main()
