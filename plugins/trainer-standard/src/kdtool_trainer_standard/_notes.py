"""Notes on a finished phase: facts that its user must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kdtool_trainer_standard._loop import TrainingLoop

__all__ = ["notes_on"]

_SILENT_SHARE = 0.01
"""A term below this share of the terms' gradient over a whole phase gets a note."""


def notes_on(loop: TrainingLoop) -> tuple[str, ...]:
    """Return the notes on a phase that has been trained."""
    progress = loop.progress
    notes = list(_on_policy_notes(progress.on_policy))
    if loop.config.sharding != "off" and loop.sharding is None:
        notes.append(
            f"sharding: {loop.config.sharding} had no effect, because there was only one process (docs/several-gpus.md "
            "explains how to start several)"
        )
    if progress.skipped:
        notes.append(
            f"{progress.skipped} of {loop.phase.steps} steps changed nothing: their gradients overflowed float16, and the "
            "scale of the loss was halved"
        )
    notes += filter(None, [progress.hopeless])
    notes += _describe_best(loop)
    squares = progress.squared_norms or {}
    total = sum(squares.values()) ** 0.5
    for bound in loop.module.terms:
        share = squares[bound.term.name] ** 0.5 / total if total and bound.term.name in squares else 1.0
        if share < _SILENT_SHARE:
            notes.append(
                f"{bound.term.label} was {share:.2%} of the terms' gradient over the phase: the student learned next to "
                "nothing from it; raise its weight, or remove it"
            )
    return tuple(notes)


def _describe_best(loop: TrainingLoop) -> Iterator[str]:
    best = loop.validator.best if loop.validator else None
    if best is not None and best.since:
        yield (
            f"{loop.config.validation.watch if loop.config.validation else ''} was best after step {best.step:,} "
            f"({best.value:.4g}), whose weights the student has; training ended after step {loop.step:,} of "
            f"{loop.phase.steps:,}"
        )


def _on_policy_notes(counts: Mapping[str, int] | None) -> Iterator[str]:
    if counts is not None:
        length = counts["tokens"] / max(1, counts["documents"])
        yield (
            f"on_policy: {counts['sampled']} of {counts['batches']} micro-batches were on-policy, "
            f"{length:.1f} tokens per document on average; {counts['cut'] / max(1, counts['documents']):.0%} of the texts "
            "were cut at their limit"
        )
