"""Memory of a phase: bytes by purpose, and the moments of a step at which they are alive.

The tensors alive follow `_module`, `_head` and the optimizer. Sizes are arithmetic, except for activations, which
`_activation_memory` counts on the student's outline. Memory peaks after the head, with all
activations alive, or at the end of backward, with all gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import kdtool
import torch
from kdtool_torch import forward_bytes, itemsize, pick_device
from kdtool_transformers import TransformersModel, layers_among

from kdtool_trainer_standard._activation_memory import ActivationMemory
from kdtool_trainer_standard._config import StandardTrainerConfig
from kdtool_trainer_standard._machine import chunk_sizes
from kdtool_trainer_standard._named_optimizer import named_optimizer
from kdtool_trainer_standard._outlines import activation_memory, measure_outline
from kdtool_trainer_standard._projection import returns_float32, share_bytes
from kdtool_trainer_standard._terms import learns_on_policy

__all__ = ["Sizes", "memory_of", "sizes_of"]

_FLOAT = 4
_MOMENTS = 2 * _FLOAT
"""Bytes of AdamW's state for each trained number."""
_SLACK = 0.1
"""Share of temporary memory that stays unused between blocks of the allocator. Fitted to measured runs on CPUs
(docs/benchmarks/memory.md), assumed on GPUs."""
_LOSS_TENSORS = 4
"""Float32 tensors of one call of the losses alive at once, each of loss_chunk_size times the vocabulary."""
_MIXING_TENSORS = 1
"""Additional tensors if teachers are mixed: the mixture's logits."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of a phase by purpose, and how often a step runs the student."""

    weights: int
    frozen: int
    """Original frozen weights in main memory, if the compute dtype lacks some of their values."""
    learned: int
    moments: int
    """State of the optimizer."""
    best: int
    """Saved weights of the best student."""
    shares: int
    """Number of processes among which weights, gradients and moments are divided."""
    gathered: int
    """Weights that are whole on each process while a step runs: all except those of the layers, and copies of these."""
    activations: ActivationMemory
    logits: int
    head: int
    signals: int
    states: int
    embedding: int
    teacher: int
    forward_passes: int
    written: int
    """Keys and values of the text that the student samples; 0 if it samples none."""


def sizes_of(
    config: StandardTrainerConfig,
    run: kdtool.RunInfo,
    ahead: kdtool.RunForecast,
    phase: kdtool.PlannedPhase,
    outline: TransformersModel,
    dtype: torch.dtype,
) -> Sizes:
    """Return the sizes of a phase whose student has this outline and computes in `dtype`."""
    learns, held, kept, facts, _ = measure_outline(outline, dtype)
    head = outline.head.weight
    rows = config.batch * phase.row_length
    passes = max((term.forward_passes for term in phase.terms), default=1)
    logits, at_head = _head_bytes(config, run, phase, head, facts, dtype)
    teachers = [name for name in (*phase.beside, *phase.cached) if name in ahead.models]
    shares = run.world if config.sharding == "full" else 1
    optimizer = named_optimizer(run, config.sharding)
    modules = sum(_modules(run, ahead, term, facts) for term in phase.terms if term.teacher is not None)
    return Sizes(
        weights=_FLOAT * (learns + modules) + held,
        frozen=kept,
        learned=learns + modules,
        moments=int((_MOMENTS if optimizer is None else optimizer.state_bytes) * (learns + modules)),
        best=_FLOAT * learns,
        shares=shares,
        gathered=_gathered_bytes(outline, modules, dtype) if shares > 1 else 0,
        activations=activation_memory(outline, config.batch, phase.row_length, dtype, passes),
        logits=logits,
        head=at_head,
        signals=sum(rows * ahead.models[name].hidden * itemsize(ahead.models[name].dtype) for name in teachers),
        states=sum(_inside(ahead, term, facts, phase.row_length) for term in phase.terms) * rows * _FLOAT,
        embedding=_FLOAT * head.numel() * head.requires_grad * facts.tied,
        teacher=max(
            (forward_bytes(ahead.models[n], rows, ahead.models[n].dtype) for n in phase.beside if n in ahead.models),
            default=0,
        ),
        forward_passes=passes,
        written=_generation_bytes(config, phase, facts, rows, dtype),
    )


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
    tensors = _LOSS_TENSORS * passes + _MIXING_TENSORS * any(term.mixture for term in terms)
    losses = call * vocabulary * _FLOAT * tensors
    states = passes * rows * facts.hidden * (_FLOAT + dtype.itemsize)
    # A head that learns, or is the embedding in wider numbers, is cast for products; else it is held in the dtype.
    cast = head.requires_grad or (facts.tied and head.dtype.itemsize > dtype.itemsize)
    copy = head.numel() * dtype.itemsize * (cast and dtype != torch.float32)
    gradient = (head.numel() * _FLOAT + share_bytes(head, dtype)) * head.requires_grad
    logits = chunk * vocabulary * dtype.itemsize * (passes + len(dense))
    if returns_float32(pick_device(), dtype):  # only gradients are kept in half precision
        logits = chunk * vocabulary * dtype.itemsize * passes + call * vocabulary * _FLOAT * (passes + len(dense))
    return logits, losses + states + copy + gradient


def _generation_bytes(
    config: StandardTrainerConfig, phase: kdtool.PlannedPhase, facts: kdtool.ModelFacts, rows: int, dtype: torch.dtype
) -> int:
    """Return the bytes of keys and values of a whole on-policy micro-batch."""
    if config.on_policy is None or not any(map(learns_on_policy, phase.terms)):
        return 0
    size = facts.head_size or facts.hidden // facts.heads
    return rows * facts.layers * 2 * facts.kv_heads * size * dtype.itemsize


def memory_of(
    config: StandardTrainerConfig, phase: kdtool.PlannedPhase, sizes: Sizes, copied: int, *, on_host: bool
) -> Iterator[kdtool.Estimate]:
    """Yield the parts of each moment, on the host or on the device.

    `copied` bytes of a checkpoint are in main memory while it is written, and training continues.
    """
    moments = _moments(config, sizes)
    names = {moment: f"{phase.stage}: {moment}" for moment in moments}
    common = {
        "weights": sizes.weights // sizes.shares,
        "optimizer": sizes.moments // sizes.shares,
        "weights gathered for a step": sizes.gathered,
    }
    for part, size in ((part, size) for part, size in common.items() if size):
        yield _part(part, tuple(names.values()), size, on_host=on_host)
    if copied:
        yield _part("checkpoint that is written", tuple(names.values()), copied, on_host=True)
    if sizes.frozen:
        yield _part("frozen weights as they were", tuple(names.values()), sizes.frozen, on_host=True)
    for moment, parts in moments.items():
        nonzero = {part: size for part, size in parts.items() if size}
        for part, size in nonzero.items():
            yield _part(part, (names[moment],), size, on_host=on_host, savings=_savings(config, part))


def _moments(config: StandardTrainerConfig, sizes: Sizes) -> dict[str, dict[str, int]]:
    """Return the bytes that come and go within a step, by part, at each moment that may be the peak."""
    gradients = _FLOAT * sizes.learned // sizes.shares
    kept = gradients if config.accumulation > 1 else 0
    alive = sizes.activations
    moments: dict[str, dict[str, int]] = {
        "teacher": {"gradients": kept, "teacher's layer": sizes.teacher, "chunk buffers": sizes.logits},
        "head": {
            "gradients": kept,
            "activations": alive.kept + sizes.states,
            "chunk buffers": sizes.logits + sizes.head,
            "signals": sizes.signals,
        },
        "backward": {
            "gradients": gradients + (sizes.embedding if alive.kept else 0),
            "chunk buffers": sizes.logits,
            "signals": sizes.signals,
        },
    }
    if sizes.written:  # before the first backward of a step; logits are those of one token per text
        moments["sampling"] = {"keys and values": sizes.written, "chunk buffers": sizes.logits}
    if alive.recompute_bytes:
        moments["recomputation"] = {
            "gradients": kept,
            "activations": alive.kept + alive.recompute_bytes + sizes.states,
            "chunk buffers": sizes.logits + sizes.embedding,
            "signals": sizes.signals,
        }
    for parts in moments.values():
        parts["allocator slack"] = int(_SLACK * sum(parts.values()))
    return moments


def _gathered_bytes(outline: TransformersModel, modules: int, dtype: torch.dtype) -> int:
    """Return the bytes that FSDP2 gathers: the root group, a layer, and autocast's copies, which live until backward."""
    layer_modules = layers_among(outline.model, outline.facts.layers) or [outline.model]
    layers: list[int] = [sum(p.numel() for p in layer.parameters()) for layer in layer_modules]
    root: int = sum(p.numel() for p in outline.model.parameters()) - sum(layers) + modules
    copies: int = sum(layers) * dtype.itemsize * (dtype != torch.float32)
    return 2 * _FLOAT * root + _FLOAT * max(layers) + copies  # the root group's gradients are whole until they are sent


def _part(
    name: str, stages: tuple[str, ...], size: int, *, on_host: bool, savings: tuple[kdtool.Saving, ...] = ()
) -> kdtool.Estimate:
    return kdtool.Estimate(
        name, stages, host_bytes=size if on_host else 0, device_bytes=0 if on_host else size, savings=savings
    )


def _savings(config: StandardTrainerConfig, part: str) -> tuple[kdtool.Saving, ...]:
    if part != "activations":
        return ()
    savings = []
    batch = config.batch
    while batch % 2 == 0:
        batch //= 2
        times = config.batch // batch
        changes = {"batch": batch, "accumulation": config.accumulation * times}
        savings.append(kdtool.Saving(changes, "the same gradient in more, smaller products"))
    return tuple(savings)


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
