"""Inputs that several files of one student share: windows of text, the student's states on them, column importances."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import kdtool
from kdtool_transformers import weights_identity
from torch import Tensor

from kdtool_exporter_gguf._config import GGUFConfig
from kdtool_exporter_gguf._held_text import windows_of
from kdtool_exporter_gguf._importance import (
    Importance,
    final_states,
    measure_importance,
    read_importance,
    require_fitting,
)
from kdtool_exporter_gguf._mixes import WEIGHTED

if TYPE_CHECKING:
    from kdtool_transformers import TransformersModel

__all__ = ["Prepared", "prepare"]


class Prepared(NamedTuple):
    """Held-out windows of tokens, the student's final states on each, and the importance of columns.

    `calibrated` is the number of training tokens that the importance was computed on; 0 if it was read from a
    file, or is None.
    """

    windows: Sequence[Sequence[int]]
    states: Sequence[Tensor]
    importance: Importance | None
    calibrated: int


_kept: dict[str, Prepared] = {}
"""The last answer: the exporters of a run follow each other, and ask the same of the same student."""


def prepare(run: kdtool.RunInfo, student: TransformersModel, trained: Path, config: GGUFConfig) -> Prepared:
    """Return what the export of a student needs; a second export in this process gets the first one's answer.

    Raises:
        UsageError: the importance matrix of the recipe is of another model.
    """
    imatrix = config.imatrix if config.type in WEIGHTED else "none"
    calibrate = config.calibrate if imatrix == "text" else 0
    calibrating, windows = windows_of(
        run, student.tokenizer, student.facts.context, calibrate=calibrate, measure=config.compare
    )
    key = sha256(repr([weights_identity(trained), imatrix, calibrating, windows]).encode()).hexdigest()
    if key not in _kept:
        importance: Importance | None = None
        if calibrating:
            importance = measure_importance(student, calibrating)
        elif imatrix not in {"text", "none"}:
            importance = read_importance(Path(imatrix))
            require_fitting(importance, student.model.config, Path(imatrix))
        _kept.clear()
        _kept[key] = Prepared(windows, [*final_states(student, windows)], importance, sum(map(len, calibrating)))
    return _kept[key]
