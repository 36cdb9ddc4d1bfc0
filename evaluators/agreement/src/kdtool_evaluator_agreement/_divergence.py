"""KL(teacher ‖ student) and top-1 agreement of one document, in chunks of positions: [N, V] never exists."""

from __future__ import annotations

from dataclasses import dataclass, replace

import kdtool
import torch
from kdtool_torch import exact_head, exact_logits, move
from torch import Tensor

from kdtool_evaluator_agreement._states import Encoded, TeacherFiles, final_states

__all__ = ["Found", "Heads", "agreement", "heads_of"]

_ROWS = 256


@dataclass(frozen=True)
class Found:
    """At each of a document's tokens: the divergence in nats, and whether both rank the same token first."""

    divergence: Tensor
    same_first: Tensor


@dataclass(frozen=True, eq=False)
class Heads:
    """The heads of a student and its teacher over the tokens that both have, in float32."""

    student: kdtool.Head
    teacher: kdtool.Head


def heads_of(student: kdtool.LanguageModel, teacher: TeacherFiles, shared: int) -> Heads:
    """Return both heads for all documents of a comparison, over the first `shared` tokens."""
    other = move(teacher.head, student.head.weight.device)
    return Heads(*(exact_head(replace(each, vocabulary=shared)) for each in (student.head, other)))


def agreement(student: kdtool.LanguageModel, document: Encoded, teacher: TeacherFiles, heads: Heads) -> Found:
    """Compare a student with its teacher's states on one document.

    KL = Σ_v t(v) (log t(v) − log s(v)) at temperature 1, in float32, over the tokens of `heads`, which are the true
    vocabulary if both have the same; 0 when both agree. Later tokens change nothing at a token, so
    the teacher's states may cover more tokens than the document has here.
    """
    divergence, same_first = [], []
    student_states = final_states(student, document)
    teacher_states = teacher.states(document, heads.student.weight.device)[: len(document.ids)]
    for start in range(0, len(document.ids), _ROWS):
        rows = slice(start, start + _ROWS)
        with torch.inference_mode():
            student_log = exact_logits(heads.student, student_states[rows]).log_softmax(-1)
            teacher_log = exact_logits(heads.teacher, teacher_states[rows]).log_softmax(-1)
            divergence.append((teacher_log.exp() * (teacher_log - student_log)).sum(-1).cpu())
            same_first.append((teacher_log.argmax(-1) == student_log.argmax(-1)).cpu())
    return Found(torch.cat(divergence), torch.cat(same_first))
