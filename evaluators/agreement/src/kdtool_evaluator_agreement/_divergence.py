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
    """At each of a document's tokens: the divergence in nats, and whether both rank the same token first."""

    divergence: Tensor
    same_first: Tensor


def agreement(student: kdtool.LanguageModel, document: Encoded, teacher: StateFiles, shared: int) -> Found:
    """Compare a student with its teacher's states on one document.

    KL = Σ_v t(v) (log t(v) − log s(v)) at temperature 1, in float32, over the first `shared` tokens, which are the true
    vocabulary where both have the same; 0 when both agree. What comes after a token changes nothing at it, so that the
    teacher's states may be of more tokens than the document has here.
    """
    head, teacher_head = (replace(each, vocabulary=shared) for each in (student.head, teacher.head))
    divergence, same_first = [], []
    student_states = final_states(student, document)
    teacher_states = teacher.of(document, head.weight.device)[: len(document.ids)]
    for start in range(0, len(document.ids), _ROWS):
        rows = slice(start, start + _ROWS)
        with torch.inference_mode():
            student_log = _log_probabilities(student_states[rows], head)
            teacher_log = _log_probabilities(teacher_states[rows], teacher_head)
            divergence.append((teacher_log.exp() * (teacher_log - student_log)).sum(-1).cpu())
            same_first.append((teacher_log.argmax(-1) == student_log.argmax(-1)).cpu())
    return Found(torch.cat(divergence), torch.cat(same_first))


def _log_probabilities(states: Tensor, head: kdtool.Head) -> Tensor:
    with autocast(head.weight):
        logits = head.logits(states)
    return logits.float().log_softmax(-1)
