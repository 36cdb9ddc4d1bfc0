"""Memory, checkpoints on disk, tokens and time of a phase, predicted from the student's outline.

Memory is bytes by purpose, and the moments of a step at which they are alive. The tensors alive follow the objective,
the head and the optimizer. Sizes are arithmetic, except for activations, which are counted on the outline. Memory peaks
after the head, with all activations alive, or at the end of backward, with all gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import kdtool
import torch

from kdtool_torch.device import has_flash, pick_device, product_speed
from kdtool_torch.estimates import ActivationMemory, forward_bytes, itemsize
from kdtool_torch.head import SUMMED_ROWS
from kdtool_torch.machine import chosen_dtype, chunk_sizes, frozen_bytes
from kdtool_torch.model import layers_among
from kdtool_torch.numerics import returns_float32
from kdtool_torch.terms import learns_on_policy, without_dropout
from kdtool_torch.trainer.checkpoint import KEPT
from kdtool_torch.trainer.optimizer import named_optimizer
from kdtool_torch.trainer.settings import StandardTrainerConfig

BUSY = {"cpu": 0.7, "cuda": 0.35, "mps": 0.35}
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
_LAUNCHES = 1e-3
"""Seconds that a CPU takes to launch the kernels of a layer's forward or backward pass. A GPU with less work waits for them:
Llama-7B's 32 layers decode 25.5 tokens per second in eager mode on an A100 (PyTorch's article on gpt-fast)."""
_BYTES_ON_DISK = 4


def estimate_phase(
    config: StandardTrainerConfig, run: kdtool.RunInfo, ahead: kdtool.RunForecast
) -> Iterator[kdtool.Estimate]:
    """Yield the parts of a phase; see `kdtool.Component.kdtool_estimate`."""
    phase = ahead.phase
    if phase is None:
        return
    batches = phase.steps * config.micro_batches(run.world)
    tokens = batches * config.batch * phase.row_length
    outline = phase.outline
    if outline is None or not hasattr(outline, "activation_memory") or not phase.row_length:
        missing = "the student has no outline for transformers" if phase.row_length else "the packer has no row_length"
        yield kdtool.Estimate("memory and time of training", note=missing)
        yield kdtool.Estimate("training", tokens=tokens)
        return
    device = pick_device()
    dtype = chosen_dtype(config.dtype, device)
    memory = phase_memory(config, run, ahead, phase, outline, dtype)
    if any(term.forward_passes > 1 for term in phase.terms) and not memory.activations.draws:
        raise without_dropout(phase.terms)
    checkpoint = _BYTES_ON_DISK * memory.trained + memory.optimizer
    speed = product_speed(dtype, device)
    seconds = _seconds(_operations(ahead, phase, outline.facts, memory, tokens), phase.steps, memory, speed, device)
    passes = 2 * max((term.forward_passes for term in phase.terms), default=1)
    launches = batches * passes * outline.facts.layers * _LAUNCHES if device.type == "cuda" else 0.0
    on_host = device.type != "cuda"  # MPS shares main memory
    copied = 0 if device.type == "cpu" else checkpoint // memory.shares
    yield from memory_of(config, phase.stage, memory, copied, on_host=on_host)
    kept = KEPT + 1  # one more is written before the oldest goes
    yield kdtool.Estimate("checkpoints", (phase.stage,), disk_bytes=checkpoint * kept, note="while the phase runs")
    if config.validation is not None and config.validation.watch is not None:
        # Each checkpoint may have its own best student; one more was found since, and another one is written.
        best = (kept + 1) * _BYTES_ON_DISK * memory.learned
        yield kdtool.Estimate("best student", (phase.stage,), disk_bytes=best, note="while the phase runs")
    yield kdtool.Estimate("trained student", disk_bytes=_BYTES_ON_DISK * outline.facts.parameters)
    writes = config.on_policy is not None and any(map(learns_on_policy, phase.terms))
    note = (
        _speed_note(speed, dtype) if seconds > launches else "from 1 ms per layer and pass, for launching its kernels"
    )
    note += "; without the time to generate on-policy text" if writes else ""
    yield kdtool.Estimate("training", tokens=tokens, seconds=max(seconds, launches), note=note)


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


_FLOAT = 4
_MOMENTS = 2 * _FLOAT
"""Bytes of AdamW's state for each trained number."""
_SLACK = 0.1
"""Share of temporary memory that stays unused between blocks of the allocator. Fitted to measured runs on CPUs
(docs/benchmarks/memory.md), assumed on GPUs."""
_LOSS_TENSORS = 4
"""Float32 tensors of one call of the losses alive at once, each of loss_chunk_size times the vocabulary."""


@lru_cache(maxsize=64)  # arms, and attempts to make a recipe fit, share outlines
def _activation_memory(outline: Any, *shape: Any, **device: bool) -> ActivationMemory:
    memory: ActivationMemory = outline.activation_memory(*shape, **device)
    return memory


@dataclass(frozen=True)
class PhaseMemory:
    """Bytes of a phase by purpose, and what else follows from its tensors."""

    learned: int
    """Weights of the student that learn."""
    trained: int
    """All numbers that the optimizer updates: those weights, and modules of losses."""
    optimizer: int
    """State of the optimizer."""
    shares: int
    """Number of processes among which weights, gradients and moments are divided."""
    activations: ActivationMemory
    lasting: Mapping[str, int]
    """Parts that exist throughout the phase, where it trains."""
    frozen: int
    """Original frozen weights in main memory, if the compute dtype lacks some of their values."""
    moments: Mapping[str, Mapping[str, int]]
    """Parts that come and go within a step, at each moment that may be the peak."""


def phase_memory(
    config: StandardTrainerConfig,
    run: kdtool.RunInfo,
    ahead: kdtool.RunForecast,
    phase: kdtool.PlannedPhase,
    outline: kdtool.LanguageModel,
    dtype: torch.dtype,
) -> PhaseMemory:
    """Return the memory of a phase whose student has this outline and computes in `dtype`."""
    facts, head, rows = outline.facts, outline.head.weight, config.batch * phase.row_length
    learned = sum(p.numel() for p in outline.model.parameters() if p.requires_grad)
    held, frozen = frozen_bytes(outline.model, dtype)
    modules = sum(_modules(run, ahead, term, facts) for term in phase.terms if term.teacher is not None)
    component, shares = named_optimizer(run, config.sharding), run.world if config.sharding == "full" else 1
    optimizer = int((_MOMENTS if component is None else component.state_bytes) * (learned + modules))
    lasting = {
        "weights": (_FLOAT * (learned + modules) + held) // shares,
        "optimizer": optimizer // shares,
        "weights gathered for a step": _gathered_bytes(outline, modules, dtype) if shares > 1 else 0,
    }
    gpu, passes = pick_device().type == "cuda", max((term.forward_passes for term in phase.terms), default=1)
    alive = _activation_memory(
        outline, config.batch, phase.row_length, dtype, passes, gpu=gpu, flash=gpu and has_flash()
    )
    inside = sum(_inside(ahead, term, facts, phase.row_length) for term in phase.terms) * rows * _FLOAT
    buffers, at_head = _head_bytes(config, run, phase, head, facts, dtype)
    cached = [ahead.models[name] for name in (*phase.beside, *phase.cached) if name in ahead.models]
    signals = sum(rows * model.hidden * itemsize(model.dtype) for model in cached)
    beside = [ahead.models[name] for name in phase.beside if name in ahead.models]
    forward = max((forward_bytes(model, rows, model.dtype) for model in beside), default=0)
    embedding = _FLOAT * head.numel() * head.requires_grad * facts.tied
    gradients = _FLOAT * (learned + modules) // shares
    kept = gradients if config.accumulation > 1 else 0
    moments = {
        "teacher": {"gradients": kept, "teacher's layer": forward, "chunk buffers": buffers},
        "head": {
            "gradients": kept,
            "activations": alive.kept + inside,
            "chunk buffers": buffers + at_head,
            "signals": signals,
        },
        "backward": {
            "gradients": gradients + (embedding if alive.kept else 0),
            "chunk buffers": buffers,
            "signals": signals,
        },
    }
    if alive.recompute_bytes:
        moments["recomputation"] = {
            "gradients": kept,
            "activations": alive.kept + alive.recompute_bytes + inside,
            "chunk buffers": buffers + embedding,
            "signals": signals,
        }
    for parts in moments.values():
        parts["allocator slack"] = int(_SLACK * sum(parts.values()))
    return PhaseMemory(learned, learned + modules, optimizer, shares, alive, lasting, frozen, moments)


def _head_bytes(
    config: StandardTrainerConfig,
    run: kdtool.RunInfo,
    phase: kdtool.PlannedPhase,
    head: torch.Tensor,
    facts: kdtool.ModelFacts,
    dtype: torch.dtype,
) -> tuple[int, int]:
    """Return bytes of a chunk's logits, of the student and its teachers, and of all else that the head needs."""
    terms = [term for term in phase.terms if term.name in run.implementing("kdtool_token_loss")]
    if not terms:
        return 0, 0
    rows, vocabulary = config.batch * phase.row_length, facts.vocabulary
    head_chunk_size, loss_chunk_size = chunk_sizes(vocabulary, pick_device())
    chunk = min(config.head_chunk_size or head_chunk_size, rows)
    call = min(config.loss_chunk_size or loss_chunk_size, rows)
    passes = max(term.forward_passes for term in terms)
    dense = {name for term in terms for name in term.teachers}
    tensors = _LOSS_TENSORS * passes + any(term.mixture for term in terms)  # the logits of a mixture
    losses = call * vocabulary * _FLOAT * tensors
    states = passes * rows * facts.hidden * (_FLOAT + dtype.itemsize)
    # A head that learns, or is the embedding in wider numbers, is cast for products; else it is held in the dtype.
    cast = head.requires_grad or (facts.tied and head.dtype.itemsize > dtype.itemsize)
    copy = head.numel() * dtype.itemsize * (cast and dtype != torch.float32)
    added = min(len(head), SUMMED_ROWS) * facts.hidden * (dtype != torch.float32)
    gradient = _FLOAT * (head.numel() + added) * head.requires_grad
    logits = chunk * vocabulary * dtype.itemsize * (passes + len(dense))
    if returns_float32(pick_device(), dtype):  # only gradients are kept in half precision
        logits = chunk * vocabulary * dtype.itemsize * passes + call * vocabulary * _FLOAT * (passes + len(dense))
    return logits, losses + states + copy + gradient


def memory_of(
    config: StandardTrainerConfig, stage: str, memory: PhaseMemory, copied: int, *, on_host: bool
) -> Iterator[kdtool.Estimate]:
    """Yield the parts of each moment of a stage, on the host or on the device.

    `copied` bytes of a checkpoint are in main memory while a GPU trains on and it is written.
    """
    names = {moment: f"{stage}: {moment}" for moment in memory.moments}
    always = tuple(names.values())
    parts = [(part, always, size, on_host) for part, size in memory.lasting.items()]
    parts += [("checkpoint that is written", always, copied, True)]
    parts += [("frozen weights as they were", always, memory.frozen, True)]
    for moment, sizes in memory.moments.items():
        parts += [(part, (names[moment],), size, on_host) for part, size in sizes.items()]
    for part, stages, size, here in parts:
        if size:
            host, device = (size, 0) if here else (0, size)
            savings = _savings(config) if part == "activations" else ()
            yield kdtool.Estimate(part, stages, host_bytes=host, device_bytes=device, savings=savings)


def _gathered_bytes(outline: kdtool.LanguageModel, modules: int, dtype: torch.dtype) -> int:
    """Return the bytes that FSDP2 gathers: the root group, a layer, and autocast's copies, which live until backward."""
    layer_modules = layers_among(outline.model, outline.facts.layers) or [outline.model]
    layers: list[int] = [sum(p.numel() for p in layer.parameters()) for layer in layer_modules]
    root: int = sum(p.numel() for p in outline.model.parameters()) - sum(layers) + modules
    copies: int = sum(layers) * dtype.itemsize * (dtype != torch.float32)
    return 2 * _FLOAT * root + _FLOAT * max(layers) + copies  # the root group's gradients are whole until they are sent


def _savings(config: StandardTrainerConfig) -> tuple[kdtool.Saving, ...]:
    times = [2**power for power in range(1, config.batch.bit_length()) if config.batch % 2**power == 0]
    changes = ({"batch": config.batch // time, "accumulation": config.accumulation * time} for time in times)
    return tuple(kdtool.Saving(each, "the same gradient in more, smaller products") for each in changes)


def _inside(ahead: kdtool.RunForecast, term: kdtool.LossTerm, student: kdtool.ModelFacts, length: int) -> int:
    """Return the numbers per position that a sequence loss compares in paired layers.

    Hidden states as they are, in float32, and normalised, of both models; attention maps, and queries, keys and values, of
    both, with the gradient of the student's. Intermediate results of these losses exist for one row at a time.
    """
    teacher = ahead.models.get(term.teacher or "")
    kinds = {kind for need in term.needs for kind in need}
    count = 0
    for facts, copies in ((student, 2), (teacher, 1)):
        if facts is not None:
            size = facts.head_size or facts.hidden // facts.heads
            count += 3 * facts.hidden * ("hidden" in kinds)
            count += copies * facts.heads * length * ("attentions" in kinds)
            count += copies * (facts.heads + 2 * facts.kv_heads) * size * ("projections" in kinds)
    return len(term.layers) * count


def _modules(run: kdtool.RunInfo, ahead: kdtool.RunForecast, term: kdtool.LossTerm, facts: kdtool.ModelFacts) -> int:
    teacher = ahead.models.get(term.teacher or "")
    if teacher is None or term.name not in run.implementing("kdtool_modules"):
        return 0
    with torch.device("meta"):
        module = run.component(term.name, kdtool.SequenceLoss).kdtool_modules(facts, teacher)
    return 0 if module is None else sum(p.numel() for p in module.parameters())
