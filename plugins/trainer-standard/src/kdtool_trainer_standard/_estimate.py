"""Predict memory, checkpoints on disk, tokens and time of a phase.

Called by `StandardTrainer.kdtool_estimate`. `_estimated_memory` adds up the memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import kdtool
import torch
from kdtool_torch import pick_device, product_speed
from kdtool_transformers import TransformersModel

from kdtool_trainer_standard._config import StandardTrainerConfig
from kdtool_trainer_standard._estimated_memory import PhaseMemory, memory_of, phase_memory
from kdtool_trainer_standard._machine import chosen_dtype
from kdtool_trainer_standard._terms import learns_on_policy, without_dropout

__all__ = ["estimate_phase"]

BUSY = {"cpu": 0.7, "cuda": 0.35}
"""Share of the speed of a bare product of matrices that a step's products reach: on CPUs fitted together with `_REST`, on
GPUs what is published of whole steps with transformers (30 to 45 %); 0.5 on others."""
_REST = 350e9
"""Operations of a step per second and CPU thread, as far as the rest of it sets the limit: norms, softmax, losses and casts,
which units for products (AMX) do not speed up. Two threads then reach half of 411 GFLOP/s (Zen 4), as was assumed of all
CPUs, and 510 of 2,560 (AMX), where 480 to 660 were measured (SmolLM2 cut to 20 layers, rows of 512)."""
_UPDATE_BYTES = 40
"""Moved by AdamW for each learned number, all in float32: gradients read for their norm, read and written to clip them;
gradients, weights and two moments read, weights and moments written."""
_BANDWIDTH = {"cpu": 7.7e9, "cuda": 1e12}
"""Bytes per second of an update: measured with two threads (71 million numbers in 0.37 s). For an A10 to an A100,
0.6e12 to 2e12 are published. 1e11 on others."""
_FLOAT = 4


def estimate_phase(
    config: StandardTrainerConfig, run: kdtool.RunInfo, ahead: kdtool.RunForecast
) -> Iterator[kdtool.Estimate]:
    """Yield the parts of a phase; see `kdtool.Component.kdtool_estimate`."""
    phase = ahead.phase
    if phase is None:
        return
    tokens = phase.steps * config.micro_batches(run.world) * config.batch * phase.row_length
    outline = phase.outline
    if not isinstance(outline, TransformersModel) or not phase.row_length:
        missing = "the student has no outline for transformers" if phase.row_length else "the packer has no row_length"
        yield kdtool.Estimate("memory and time of training", note=missing)
        yield kdtool.Estimate("training", tokens=tokens)
        return
    device = pick_device()
    dtype = chosen_dtype(config.dtype, device)
    memory = phase_memory(config, run, ahead, phase, outline, dtype)
    if any(term.forward_passes > 1 for term in phase.terms) and not memory.activations.draws:
        raise without_dropout(phase.terms)
    checkpoint = _FLOAT * memory.trained + memory.optimizer
    speed = product_speed(dtype, device)
    seconds = _seconds(_operations(ahead, phase, outline.facts, memory, tokens), phase.steps, memory, speed, device)
    on_host = device.type == "cpu"
    copied = 0 if on_host else checkpoint // memory.shares
    yield from memory_of(config, phase.stage, memory, copied, on_host=on_host)
    kept = config.keep_checkpoints + 1  # one more is written before the oldest goes
    yield kdtool.Estimate("checkpoints", (phase.stage,), disk_bytes=checkpoint * kept, note="while the phase runs")
    if config.validation is not None and config.validation.watch is not None:
        # Each checkpoint may have its own best student; one more was found since, and another one is written.
        best = (kept + 1) * _FLOAT * memory.learned
        yield kdtool.Estimate("best student", (phase.stage,), disk_bytes=best, note="while the phase runs")
    yield kdtool.Estimate("trained student", disk_bytes=_FLOAT * outline.facts.parameters)
    writes = config.on_policy is not None and any(map(learns_on_policy, phase.terms))
    note = _speed_note(speed, dtype) + ("; without the time to generate on-policy text" if writes else "")
    yield kdtool.Estimate("training", tokens=tokens, seconds=seconds, note=note)


def _speed_note(speed: float, dtype: torch.dtype) -> str:
    assumed, name = kdtool.Gpu.of_check(), str(dtype).removeprefix("torch.")
    if assumed is not None:
        return f"from {BUSY['cuda']:.0%} of the published speed of {assumed.name}: {speed / 1e12:,.0f} TFLOP/s, {name}"
    return f"from this machine's speed: {speed / 1e9:,.0f} GFLOP/s, {name}"


def _operations(
    ahead: kdtool.RunForecast, phase: kdtool.PlannedPhase, facts: kdtool.ModelFacts, memory: PhaseMemory, tokens: int
) -> float:
    """Count multiplications and additions: forward, twice as many backward, and layers that are computed again.

    Everything is multiplied by the number of forward passes in a step.
    """
    embedding = 0 if facts.tied else facts.vocabulary * facts.hidden
    ways = 3 if facts.trainable > facts.parameters / 2 else 2  # frozen weights have no gradient
    per_token: float = (ways + bool(memory.activations.recompute_bytes)) * 2 * (facts.parameters - embedding)
    per_token += ways * 4 * facts.layers * facts.hidden * phase.row_length / 2
    teachers = sum(2 * ahead.models[name].parameters for name in phase.beside if name in ahead.models)
    heads = sum(2 * ahead.models[n].vocabulary * ahead.models[n].hidden for n in phase.cached if n in ahead.models)
    passes = max((term.forward_passes for term in phase.terms), default=1)
    return float(tokens * (passes * per_token + teachers + heads))


def _seconds(operations: float, steps: int, memory: PhaseMemory, speed: float, device: torch.device) -> float:
    """Return the time of training: products of matrices at their `speed`, all else on CPUs, and the optimizer's traffic."""
    products = operations / (BUSY.get(device.type, 0.5) * speed)
    rest = operations / (_REST * torch.get_num_threads()) if device.type == "cpu" else 0.0
    updates = steps * memory.trained / memory.shares * _UPDATE_BYTES / _BANDWIDTH.get(device.type, 1e11)
    return products + rest + updates
