"""Rows of tokens as batches of tensors, and the terms of a phase on them.

Called by trainers, caches and evaluators with rows that a packer made. Labels are shifted in `collate`
and nowhere else. Rows are neither cut nor padded to a common length: that is the packer's work.
"""

from __future__ import annotations

from kdtool_rows._batches import NO_LABEL, collate
from kdtool_rows._phase_terms import PhaseTerms

__all__ = ["NO_LABEL", "PhaseTerms", "collate"]
