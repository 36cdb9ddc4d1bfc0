"""Memory and disk of a recording, for `kdtool check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import kdtool

from kdtool_torch._device import pick_device

__all__ = ["recording_estimates"]


def recording_estimates(
    ahead: kdtool.RunForecast,
    bytes_a_token: Callable[[kdtool.PlannedSignals, kdtool.ModelFacts], float],
    bytes_once: Callable[[kdtool.ModelFacts], int],
    rows_per_shard: int,
    batch: int,
    working: int = 0,
) -> Iterator[kdtool.Estimate]:
    """Yield memory and disk of every recording: two copies of a shard, and a teacher's pass over `batch` rows.

    Args:
        ahead: forecast of the run.
        bytes_a_token: bytes kept per labelled token.
        bytes_once: bytes kept once for all rows.
        rows_per_shard: rows buffered before they are written.
        batch: rows per forward pass of the teacher.
        working: further bytes that the cache uses on the teacher's device.
    """
    import torch

    on_host = pick_device().type == "cpu"
    for signals in ahead.signals:
        facts = ahead.models.get(signals.teacher)
        if facts is None:
            note = f"the plugin of {signals.teacher} does not implement kdtool_describe"
            yield kdtool.Estimate("teacher signals", note=note)
            continue
        size = bytes_a_token(signals, facts)
        shard = rows_per_shard * signals.row_length
        states = batch * signals.row_length * getattr(torch, facts.dtype).itemsize
        layer = states * (4 * facts.hidden + 3 * facts.feed_forward)
        held, in_use = int(2 * min(shard, signals.tokens or shard) * size), layer + working
        host = held + in_use if on_host else held
        note = (
            "" if signals.tokens else f"{size:.0f} bytes per token; the number of tokens is known when the text is read"
        )
        yield kdtool.Estimate("teacher signals", (signals.stage,), host, held + in_use - host)
        yield kdtool.Estimate("teacher signals", disk_bytes=int(signals.tokens * size) + bytes_once(facts), note=note)
