"""Decide whether to compile a phase's losses: once, on rank 0; a resumed phase keeps the decision.

Compiled and eager losses agree except for rounding, and a timing decides which to use. So all ranks follow rank 0, and
checkpoints store its decision.
"""

from __future__ import annotations

from time import perf_counter

import kdtool
import torch
import torch.distributed as dist

from kdtool_trainer_standard._chunk import ChunkLoss, ChunkRows, Logits

__all__ = ["compiled_or_eager"]

# Measured on two cores, 49,152 tokens: compiled losses take about half the time; the first costs 12 s, others 2 s.
_COMPILE_SECONDS, _COMPILE_SECONDS_MORE, _TIME_SAVED, _MARGIN = 12.0, 2.0, 0.5, 1.5


def compiled_or_eager(
    loss: ChunkLoss,
    mode: str,
    logits: Logits,
    rows: ChunkRows,
    positions_to_come: int,
    run: kdtool.RunInfo,
    before: bool | None = None,
) -> None:
    """Compile `loss` if `mode` is "on", or if it is "auto" and compiling saves time; leave it eager if compiling fails.

    `logits` and `rows` are a real chunk. `positions_to_come` counts this process's positions in the rest of the phase.
    `before` is the decision of a resumed phase, which only "off" overrides.
    """
    if mode == "off" or not loss.terms:
        return
    wanted = before
    if wanted is None:
        wanted = _of_rank_0(mode == "on" or _pays(loss, logits, rows, positions_to_come), run, logits[0].device)
    if not wanted:
        return
    loss.compile()
    try:
        with torch.no_grad():  # as the chunked head calls it: in another mode it would be compiled once more
            loss(logits, rows)
            fewer = len(rows.labels) - 1
            loss(tuple(of_pass[:fewer] for of_pass in logits), _first(rows, fewer))  # must not be compiled again later
    except Exception as error:
        loss.eager()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        after = "; they were compiled before, so the weights will not be those of a phase in one go" if before else ""
        run.say(f"the losses run uncompiled, which is slower: compiling failed ({reason[:200]}){after}")


def _pays(loss: ChunkLoss, logits: Logits, rows: ChunkRows, positions_to_come: int) -> bool:
    if logits[0].device.type == "cpu" and loss.nothing_to_compile(logits, rows):
        return False  # measured: compiled, losses take from 0.8 to 1.8 times as long there
    saved = _TIME_SAVED * positions_to_come * _seconds_of_call(loss, logits, rows) / len(rows.labels)
    return saved >= _MARGIN * (_COMPILE_SECONDS + _COMPILE_SECONDS_MORE * (len(loss.terms) - 1))


def _of_rank_0(decision: bool, run: kdtool.RunInfo, device: torch.device) -> bool:
    decided = torch.tensor(float(decision), device=device)
    if run.world > 1:
        dist.broadcast(decided, 0)
    return bool(decided)


def _seconds_of_call(loss: ChunkLoss, logits: Logits, rows: ChunkRows) -> float:
    seconds = []
    for _ in range(4):  # the first allocates, and others may be disturbed by other processes
        start = perf_counter()
        float(loss(logits, rows)[1].sum())  # reading a value waits for the device
        seconds.append(perf_counter() - start)
    return min(seconds)


def _first(rows: ChunkRows, count: int) -> ChunkRows:
    return ChunkRows(
        labels=rows.labels[:count],
        positions=rows.positions[:count],
        columns={name: column[:count] for name, column in rows.columns.items()},
        teachers=tuple(tuple(tensor[:count] for tensor in teacher) for teacher in rows.teachers),
        factors=rows.factors,
        progress=rows.progress,
        step=rows.step,
    )
