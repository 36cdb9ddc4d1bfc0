"""KL(teacher ‖ student) and top-1 agreement of one document, in chunks of positions: [N, V] never exists."""

from __future__ import annotations

from dataclasses import dataclass, replace

import kdtool
import torch
from torch import Tensor

from kdtool_evaluator_agreement._states import Encoded, StateFiles, autocast, final_states

__all__ = ["Found", "agreement"]

_ROWS = 256


@dataclass(frozen=True)
class Found:
    """One document's divergence in nats and positions with the same first token, both summed over its tokens."""

    divergence: float
    same_first: float
    tokens: int


def agreement(student: kdtool.LanguageModel, document: Encoded, teacher: StateFiles, shared: int) -> Found:
    """Compare a student with its teacher's states on one document.

    KL = Σ_v t(v) (log t(v) − log s(v)) at temperature 1, in float32, over the first `shared` tokens, which are the true
    vocabulary where both have the same; 0 when both agree.
    """
    head, teacher_head = (replace(each, vocabulary=shared) for each in (student.head, teacher.head))
    divergence = same_first = 0.0
    student_states = final_states(student, document)
    teacher_states = teacher.of(document, head.weight.device)
    for start in range(0, len(document.ids), _ROWS):
        rows = slice(start, start + _ROWS)
        with torch.inference_mode():
            student_log = _log_probabilities(student_states[rows], head)
            teacher_log = _log_probabilities(teacher_states[rows], teacher_head)
            divergence += float((teacher_log.exp() * (teacher_log - student_log)).sum())
            same_first += float((teacher_log.argmax(-1) == student_log.argmax(-1)).sum())
    return Found(divergence, same_first, len(document.ids))


def _log_probabilities(states: Tensor, head: kdtool.Head) -> Tensor:
    with autocast(head.weight):
        logits = head.logits(states)
    return logits.float().log_softmax(-1)
