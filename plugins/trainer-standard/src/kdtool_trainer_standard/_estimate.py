"""Predict memory, checkpoints on disk, tokens and time of a phase.

Called by `StandardTrainer.kdtool_estimate`. The tensors alive follow `_module`, `_head` and the optimiser. Sizes are
arithmetic, except for activations, which `kdtool_transformers.estimate_activation_memory` counts on the student's outline.
Memory peaks after the head, with all activations alive, or at the end of backward, with all gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from time import monotonic
from typing import NamedTuple
from weakref import WeakKeyDictionary

import kdtool
import torch
from kdtool_transformers import (
    ActivationMemory,
    OutlineFromFacts,
    TransformersModel,
    estimate_activation_memory,
    forward_bytes,
    has_flash,
    itemsize,
    layers_among,
    pick_device,
    product_speed,
)

from kdtool_trainer_standard._config import StandardTrainerConfig
from kdtool_trainer_standard._frozen import frozen_bytes, hold_outline
from kdtool_trainer_standard._machine import chosen_dtype, chunk_sizes
from kdtool_trainer_standard._terms import learns_on_policy, without_dropout

__all__ = ["estimate_phase"]

BUSY = {"cpu": 0.7, "cuda": 0.35}
"""Share of the speed of a bare product of matrices that a step's products reach: on CPUs fitted together with `_REST`, on
GPUs what is published of whole steps with transformers (30 to 45 %); 0.5 on others."""
_REST = 350e9
"""Operations of a step a second and CPU thread, as far as the rest of the step limits it: norms, softmax, losses and casts,
which units for products (AMX) do not speed up. Two threads then reach half of 411 GFLOP/s (Zen 4), as was assumed of all
CPUs, and 510 of 2,560 (AMX), where 480 to 660 were measured (SmolLM2 cut to 20 layers, rows of 512)."""
_UPDATE_BYTES = 40
"""Moved by AdamW for each learned number, all in float32: gradients read for their norm, read and written to clip them;
gradients, weights and two moments read, weights and moments written."""
_BANDWIDTH = {"cpu": 7.7e9, "cuda": 1e12}
"""Bytes a second of an update: measured with two threads (71 million numbers in 0.37 s); of GPUs those of an A10 to an A100
are published as 0.6e12 to 2e12. 1e11 on others."""
_SLACK = 0.1
"""Of memory that comes and goes, the share that lies unused between blocks of the allocator."""
_LOOK_SECONDS = 60
"""Other work is measured once in so long: a measurement takes 0.2 seconds, and each phase of each attempt asks."""
_FLOAT = 4
_LOSS_TENSORS = 4
"""Float32 tensors of one call of the losses alive at once, each of loss_chunk_size times the vocabulary."""
_MIXING_TENSORS = 1
"""As many more where teachers are mixed: the mixture's own logits."""


@dataclass(frozen=True)
class _Sizes:
    """Bytes of a phase by what they are for, and how often a step runs the student."""

    weights: int
    frozen: int
    """Of frozen weights as they were, in main memory, where the compute dtype lacks some of their values."""
    learnt: int
    best: int
    """Of what is kept of a student that was best."""
    shares: int
    """Among how many processes weights, gradients and moments are divided."""
    gathered: int
    """Weights that are whole on each all the same while a step runs: all but those of the layers, and copies of these."""
    activations: ActivationMemory
    logits: int
    head: int
    signals: int
    states: int
    embedding: int
    teacher: int
    forward_passes: int
    written: int
    """Of the keys and values of what the student writes; 0 where it writes nothing."""


def estimate_phase(
    config: StandardTrainerConfig, run: kdtool.RunInfo, ahead: kdtool.RunForecast
) -> Iterator[kdtool.Estimate]:
    """Yield the parts of a phase; see `kdtool.Component.kdtool_estimate`."""
    phase = ahead.phase
    if phase is None:
        return
    tokens = phase.steps * config.accumulation * config.batch * phase.row_length
    outline = _outline(phase, ahead)
    if outline is None or not phase.row_length:
        missing = "the student's plugin has no kdtool_describe" if phase.row_length else "the packer has no row_length"
        yield kdtool.Estimate("memory and time of training", note=missing)
        yield kdtool.Estimate("training", tokens=tokens)
        return
    device = pick_device()
    dtype = chosen_dtype(config.dtype, device)
    facts = _measure_outline(outline, dtype).facts
    sizes = _sizes(config, run, ahead, phase, outline, dtype)
    if sizes.forward_passes > 1 and not sizes.activations.draws:
        raise without_dropout(phase.terms)
    if isinstance(outline, OutlineFromFacts):
        yield kdtool.Estimate("activations", note="those of a Llama with the student's shapes are assumed")
    yield from _memory(config, phase, sizes, on_host=device.type == "cpu")
    kept = config.keep_checkpoints + 1  # one more is written before the oldest goes
    yield kdtool.Estimate(
        "checkpoints", (phase.stage,), disk_bytes=3 * _FLOAT * sizes.learnt * kept, note="while the phase runs"
    )
    if config.validation is not None and config.validation.watch is not None:
        # Each checkpoint may have a best student of its own; one more was found since, and another one is written.
        yield kdtool.Estimate(
            "best student", (phase.stage,), disk_bytes=(kept + 1) * sizes.best, note="while the phase runs"
        )
    yield kdtool.Estimate("trained student", disk_bytes=_FLOAT * facts.parameters)
    speed = product_speed(dtype, device)
    yield kdtool.Estimate(
        "training",
        tokens=tokens,
        seconds=_seconds(_operations(ahead, phase, facts, sizes, tokens), phase.steps, sizes, speed, device),
        note=_speed_note(speed, dtype, device)
        + ("; without the time to generate on-policy text" if sizes.written else ""),
    )


@lru_cache(maxsize=8)
def _outline_from(facts: kdtool.ModelFacts) -> OutlineFromFacts:
    return OutlineFromFacts(facts)


def _outline(phase: kdtool.PlannedPhase, ahead: kdtool.RunForecast) -> TransformersModel | None:
    """Return the phase's outline, or one of the student's shapes; None if the student is not described."""
    if isinstance(phase.outline, TransformersModel):
        return phase.outline
    facts = phase.facts or ahead.models.get(ahead.student)
    return None if facts is None else _outline_from(facts)


def _speed_note(speed: float, dtype: torch.dtype, device: torch.device) -> str:
    assumed, name = kdtool.assumed_gpu(), str(dtype).removeprefix("torch.")
    if assumed is not None:
        return f"from {BUSY['cuda']:.0%} of the published speed of {assumed.name}: {speed / 1e12:,.0f} TFLOP/s, {name}"
    note = f"from this machine's speed: {speed / 1e9:,.0f} GFLOP/s, {name}"
    if device.type != "cpu":
        return note
    others = _others(torch.get_num_threads(), int(monotonic() // _LOOK_SECONDS))
    return f"{note}; longer while other processes use {others:.1f} cores, as now" if others else note


@lru_cache(maxsize=1)
def _others(threads: int, _now: int) -> float:
    """Return the number of cores used by other work; a new value of `_now` measures again."""
    return kdtool.busy_cores(threads)


def _sizes(
    config: StandardTrainerConfig,
    run: kdtool.RunInfo,
    ahead: kdtool.RunForecast,
    phase: kdtool.PlannedPhase,
    outline: TransformersModel,
    dtype: torch.dtype,
) -> _Sizes:
    learns, held, kept, facts, _ = _measure_outline(outline, dtype)
    head = outline.head.weight
    rows, vocabulary, width = config.batch * phase.row_length, facts.vocabulary, facts.hidden
    teachers = [name for name in (*phase.beside, *phase.cached) if name in ahead.models]
    token_terms = [term for term in phase.terms if term.name in run.implementing("kdtool_token_loss")]
    dense = {name for term in token_terms for name in term.teachers}
    head_chunk_size, loss_chunk_size = chunk_sizes(vocabulary, pick_device())
    passes = max((term.forward_passes for term in phase.terms), default=1)
    of_head = max((term.forward_passes for term in token_terms), default=1)
    chunk = min(config.head_chunk_size or head_chunk_size, rows)
    call = min(config.loss_chunk_size or loss_chunk_size, rows)
    at_head = 0
    if token_terms:
        tensors = _LOSS_TENSORS * of_head + _MIXING_TENSORS * any(term.mixture for term in token_terms)
        at_head = call * vocabulary * _FLOAT * tensors
        at_head += of_head * rows * width * (_FLOAT + dtype.itemsize)
        cast = head.requires_grad or (
            facts.tied and head.dtype.itemsize > dtype.itemsize
        )  # else it is held in the dtype
        at_head += head.numel() * dtype.itemsize * (cast and dtype != torch.float32)
        at_head += (
            head.numel() * (_FLOAT + dtype.itemsize) * head.requires_grad
        )  # its gradient, and a chunk's share of it
    shares = run.world if config.sharding == "full" else 1
    modules = sum(_modules(run, ahead, term, facts) for term in phase.terms if term.teacher is not None)
    return _Sizes(
        weights=_FLOAT * (learns + modules) + held,
        frozen=kept,
        learnt=learns + modules,
        best=_FLOAT * learns,
        shares=shares,
        gathered=_gathered_bytes(outline, modules, dtype) if shares > 1 else 0,
        activations=_activation_memory(outline, config.batch, phase.row_length, dtype, passes),
        logits=chunk * vocabulary * dtype.itemsize * (of_head + len(dense)) if token_terms else 0,
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


def _generation_bytes(
    config: StandardTrainerConfig, phase: kdtool.PlannedPhase, facts: kdtool.ModelFacts, rows: int, dtype: torch.dtype
) -> int:
    """Bytes of keys and values of a whole micro-batch that the student writes."""
    if config.on_policy is None or not any(map(learns_on_policy, phase.terms)):
        return 0
    size = facts.head_size or facts.hidden // facts.heads
    return rows * facts.layers * 2 * facts.kv_heads * size * dtype.itemsize


def _memory(
    config: StandardTrainerConfig, phase: kdtool.PlannedPhase, sizes: _Sizes, *, on_host: bool
) -> Iterator[kdtool.Estimate]:
    gradients, optimiser = _FLOAT * sizes.learnt // sizes.shares, 2 * _FLOAT * sizes.learnt // sizes.shares
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
    if sizes.written:  # before the first backward of a step; logits are those of one token a text
        moments["own text"] = {"keys and values": sizes.written, "chunk buffers": sizes.logits}
    if alive.recompute_bytes:
        moments["a layer again"] = {
            "gradients": kept,
            "activations": alive.kept + alive.recompute_bytes + sizes.states,
            "chunk buffers": sizes.logits + sizes.embedding,
            "signals": sizes.signals,
        }
    for parts in moments.values():
        parts["allocator slack"] = int(_SLACK * sum(parts.values()))
    names = {moment: f"{phase.stage}: {moment}" for moment in moments}
    common = {
        "weights": sizes.weights // sizes.shares,
        "optimiser": optimiser,
        "weights gathered for a step": sizes.gathered,
    }
    for part, size in ((part, size) for part, size in common.items() if size):
        yield _part(part, tuple(names.values()), size, on_host=on_host)
    if sizes.frozen:
        yield _part("frozen weights as they were", tuple(names.values()), sizes.frozen, on_host=True)
    for moment, parts in moments.items():
        own = {part: size for part, size in parts.items() if size}
        for part, size in own.items():
            yield _part(part, (names[moment],), size, on_host=on_host, savings=_savings(config, part))
    for teacher in phase.beside:
        yield kdtool.Estimate("teacher beside the student", (phase.stage,), uses=(teacher,))


def _gathered_bytes(outline: TransformersModel, modules: int, dtype: torch.dtype) -> int:
    """Return the bytes of what FSDP2 gathers: the root group, a layer, and autocast's copies, which live until backward."""
    found = layers_among(outline.model, outline.facts.layers) or [outline.model]
    layers: list[int] = [sum(p.numel() for p in layer.parameters()) for layer in found]
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
    found = []
    batch = config.batch
    while batch % 2 == 0:
        batch //= 2
        times = config.batch // batch
        more = {"batch": batch, "accumulation": config.accumulation * times}
        found.append(kdtool.Saving(more, "the same gradient in more, smaller products"))
    return tuple(found)


def _inside(ahead: kdtool.RunForecast, term: kdtool.LossTerm, student: kdtool.ModelFacts, length: int) -> int:
    """Numbers a position that a sequence loss compares of paired layers.

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


def _operations(
    ahead: kdtool.RunForecast, phase: kdtool.PlannedPhase, facts: kdtool.ModelFacts, sizes: _Sizes, tokens: int
) -> float:
    """Count multiplications and additions: forward, twice as many backward, layers again where they are computed again.

    All of that as often as a step runs the student.
    """
    embedding = 0 if facts.tied else facts.vocabulary * facts.hidden
    ways = 3 if facts.trainable > facts.parameters / 2 else 2  # frozen weights have no gradient of their own
    own: float = (ways + bool(sizes.activations.recompute_bytes)) * 2 * (facts.parameters - embedding)
    own += ways * 4 * facts.layers * facts.hidden * phase.row_length / 2
    teachers = sum(2 * ahead.models[name].parameters for name in phase.beside if name in ahead.models)
    heads = sum(2 * ahead.models[n].vocabulary * ahead.models[n].hidden for n in phase.cached if n in ahead.models)
    return float(tokens * (sizes.forward_passes * own + teachers + heads))


def _seconds(operations: float, steps: int, sizes: _Sizes, speed: float, device: torch.device) -> float:
    """Return the time of training: products of matrices at their `speed`, all else on CPUs, and the optimiser's traffic."""
    products = operations / (BUSY.get(device.type, 0.5) * speed)
    rest = operations / (_REST * torch.get_num_threads()) if device.type == "cpu" else 0.0
    updates = steps * sizes.learnt / sizes.shares * _UPDATE_BYTES / _BANDWIDTH.get(device.type, 1e11)
    return products + rest + updates


class _Outlined(NamedTuple):
    """Figures of an outline as it was before the estimate, which gives frozen weights other dtypes."""

    learns: int
    held: int
    kept: int
    facts: kdtool.ModelFacts
    shapes: tuple[object, ...]
    """All that the estimate follows from, but for the micro-batch."""


_outlines: WeakKeyDictionary[torch.nn.Module, dict[torch.dtype, _Outlined]] = WeakKeyDictionary()


def _measure_outline(outline: TransformersModel, dtype: torch.dtype) -> _Outlined:
    """Return the figures of an outline; arms, and attempts to make a recipe fit, share outlines."""
    model = outline.model
    known = _outlines.setdefault(model, {})
    if dtype not in known:
        weights = tuple((n, tuple(p.shape), p.dtype, p.requires_grad) for n, p in model.named_parameters())
        again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
        held, kept = frozen_bytes(model, dtype)
        if isinstance(outline, OutlineFromFacts):
            learns, held = outline.facts.trainable, 4 * (outline.facts.parameters - outline.facts.trainable)
        shapes = type(model).__name__, weights, again, dtype
        known[dtype] = _Outlined(learns, held, kept, outline.facts, shapes)
    return known[dtype]


_known: dict[tuple[object, ...], ActivationMemory] = {}


def _activation_memory(
    outline: TransformersModel, rows: int, length: int, dtype: torch.dtype, passes: int
) -> ActivationMemory:
    """Estimate, or remember: `--fit` asks for one student again and again."""
    gpu = pick_device().type == "cuda"
    flash = gpu and has_flash()
    key = (*_measure_outline(outline, dtype).shapes, rows, length, passes, gpu, flash)
    if key not in _known:
        with hold_outline(outline.model, dtype):
            _known[key] = estimate_activation_memory(outline, rows, length, dtype, passes, gpu=gpu, flash=flash)
    return _known[key]
