"""Compile a phase's losses where that pays: a rule without timing, so that a resumed phase and all ranks do the same."""

from __future__ import annotations

import kdtool
import torch

from kdtool_trainer_standard._chunk import Chunk, ChunkLoss

__all__ = ["compiled_or_eager"]

_LOGITS_TO_PAY = 10_000_000_000
"""Logits to come, over the vocabulary and all processes, from which compiling pays on a CPU. Estimated for two cores and
49,152 tokens: an eager loss takes about 0.25 ms per position, a compiled one half of it, and compiling 12 s: about
100,000 positions, and twice as many to be sure."""


def compiled_or_eager(loss: ChunkLoss, mode: str, chunk: Chunk, positions_to_come: int, run: kdtool.RunInfo) -> None:
    """Compile `loss` if `mode` is "on", or "auto" and compiling pays; leave it eager if compiling fails.

    `chunk` is a real one. `positions_to_come` counts the positions of the whole phase.
    """
    if mode == "off" or not loss.terms or (mode == "auto" and not _pays(loss, chunk, positions_to_come)):
        return
    loss.compile()
    try:
        with torch.no_grad():  # as the chunked head calls it: in another mode it would be compiled once more
            loss(chunk)
            loss(_but_last(chunk))  # must not be compiled again later
    except Exception as error:
        loss.eager()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        run.say(f"the losses run uncompiled, which is slower: compiling failed ({reason[:200]})")


def _pays(loss: ChunkLoss, chunk: Chunk, positions_to_come: int) -> bool:
    if chunk.logits[0].device.type == "cuda":
        return True
    if loss.nothing_to_compile(chunk):
        return False  # measured: compiled, losses take from 0.8 to 1.8 times as long there
    return positions_to_come * chunk.logits[0].shape[1] >= _LOGITS_TO_PAY


def _but_last(chunk: Chunk) -> Chunk:
    rows = slice(0, len(chunk.labels) - 1)
    teachers = tuple(tuple(tensor[rows] for tensor in teacher) for teacher in chunk.teachers)
    return chunk.select(rows, teachers, tuple(of_pass[rows] for of_pass in chunk.logits))
