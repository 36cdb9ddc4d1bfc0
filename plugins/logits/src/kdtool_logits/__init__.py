"""Logits of a whole micro-batch for losses, chunk by chunk: they never exist all at once.

Called by sequence losses, which get final states and heads (`kdtool.StepView`). `both_sides` gives student and teacher at
the labelled positions, `Side.likelihoods` what each finds of its labels; `in_chunks` is for any other function of logits.
Evaluators, which report what they compute, get logits from `exact_logits` by an `exact_head`. `LogitsRuntime` opens a
teacher that has nothing but logits.
Importing this costs nothing.
"""

from __future__ import annotations

from kdtool_logits._chunks import in_chunks
from kdtool_logits._exact import exact_head, exact_logits
from kdtool_logits._likelihood import log_likelihood
from kdtool_logits._precision import LOWEST, at_least_float32, log_probabilities
from kdtool_logits._runtime import LogitsRuntime
from kdtool_logits._sides import Side, both_sides

__all__ = [
    "LOWEST",
    "LogitsRuntime",
    "Side",
    "at_least_float32",
    "both_sides",
    "exact_head",
    "exact_logits",
    "in_chunks",
    "log_likelihood",
    "log_probabilities",
]
