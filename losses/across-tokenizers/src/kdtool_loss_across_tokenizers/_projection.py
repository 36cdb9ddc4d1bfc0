"""Two vocabularies projected onto common classes of tokens, and the divergence there (X-Token)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kdtool_torch import at_least_float32

from kdtool_loss_across_tokenizers._tokenizers import Tokens

if TYPE_CHECKING:
    import kdtool
    import torch
    from torch import Tensor

__all__ = ["Classes", "common_classes", "projected_kl", "tensors_of_classes"]


@dataclass(frozen=True)
class Classes:
    """The class of each token of student and teacher, from 0; those without one have `count`."""

    student: Sequence[int]
    teacher: Sequence[int]
    count: int


def common_classes(student: Tokens, teacher: Tokens) -> Classes:
    """Return the classes that two vocabularies have in common.

    A class is one token of the teacher with which the spelling of some student's token begins. To it belong the student's
    tokens that the teacher spells so, by one token or several, and itself. A teacher's token to which no student's token
    leads belongs to the class of the first token by which the student spells it. So "201" of one side is in the class of
    "2" of the other. The ends of a document are a class; other special tokens have none.
    """
    towards = [teacher.first(piece) if piece else None for piece in student.pieces]
    ends = student.tokenizer.end_of_text, teacher.tokenizer.end_of_text
    towards[ends[0]] = ends[1]
    number = {token: at for at, token in enumerate(sorted({token for token in towards if token is not None}))}

    def class_of(token: int, piece: bytes) -> int:
        if token in number or not piece:
            return number.get(token, len(number))
        spelled = student.first(piece)
        target = None if spelled is None else towards[spelled]
        return len(number) if target is None else number[target]

    return Classes(
        [len(number) if token is None else number[token] for token in towards],
        [class_of(token, piece) for token, piece in enumerate(teacher.pieces)],
        len(number),
    )


@lru_cache(maxsize=2)
def tensors_of_classes(
    student: kdtool.Tokenizer, teacher: kdtool.Tokenizer, device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """Return the classes of the student's tokens [V], of the teacher's [V_T], and their number."""
    import torch

    found = common_classes(Tokens(student), Tokens(teacher))
    own, other = (torch.tensor(classes, device=device) for classes in (found.student, found.teacher))
    return own, other, found.count


def projected_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_classes: Tensor,
    teacher_classes: Tensor,
    count: int,
    temperature: float = 1.0,
) -> Tensor:
    """Return P · KL(p ‖ q) of the probabilities of classes, given that a token has one, which it has for the teacher with P.

    p_c = Σ_{v in c} softmax(z / T)_v / P for the teacher, and likewise q_c for the student. It is the P-KL of Sreenivas et
    al. (X-Token), arXiv 2605.21699, whose matrix W projects the student's probabilities into the teacher's vocabulary,
    with all weight on the first token of a spelling. 0 if and only if p = q. With T it shrinks as 1 / T². Not multiplied by
    T²: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V_T].
        student_classes: [V] integers, from 0 to `count`, which stands for none.
        teacher_classes: [V_T], likewise.
        count: the number of classes.
        temperature: T > 0, for both.

    Returns:
        [C], in nats.
    """
    q = _project(student_logits, student_classes, count, temperature)
    p = _project(teacher_logits, teacher_classes, count, temperature)
    least = 1e-30
    mass, own_mass = p.sum(-1), q.sum(-1).clamp(min=least)
    divergence = (p * (p.clamp(min=least).log() - q.clamp(min=least).log())).sum(-1)
    return (divergence + mass * (own_mass.log() - mass.clamp(min=least).log())).clamp(min=0)


def _project(logits: Tensor, classes: Tensor, count: int, temperature: float) -> Tensor:
    probabilities = (at_least_float32(logits) / temperature).softmax(-1)
    sums = probabilities.new_zeros(len(probabilities), count + 1).index_add(1, classes, probabilities)
    return sums[:, :count]
