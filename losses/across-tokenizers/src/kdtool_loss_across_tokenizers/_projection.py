"""Two vocabularies projected onto common classes of tokens, and the divergence there (X-Token)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kdtool_torch import at_least_float32

from kdtool_loss_across_tokenizers._tokenizers import Pieces

if TYPE_CHECKING:
    import kdtool
    import torch
    from torch import Tensor

__all__ = ["Classes", "common_classes", "projected_kl"]


@dataclass(frozen=True, eq=False)
class Classes:
    """The class of each token of student [V] and teacher [V_T], from 0 to `count` - 1; `count` for tokens without one."""

    student: Tensor
    teacher: Tensor
    count: int


@lru_cache(maxsize=2)
def common_classes(student: kdtool.Tokenizer, teacher: kdtool.Tokenizer, device: torch.device | None = None) -> Classes:
    """Return the classes that two vocabularies have in common, on the CPU if `device` is None.

    A class is a token of the teacher with which the spelling of a student's token begins. It contains itself and all tokens
    of the student that the teacher spells so, by one token or several. A teacher's token with which no such spelling begins
    belongs to the class of the first token by which the student spells it. So "201" of one side is in the class of the
    other's "2". The ends of text are a class; other special tokens have none.
    """
    import torch

    of_student, of_teacher = Pieces(student), Pieces(teacher)
    targets = [of_teacher.first(piece) if piece else None for piece in of_student.pieces]
    targets[student.end_of_text] = teacher.end_of_text
    classes = {token: number for number, token in enumerate(sorted({token for token in targets if token is not None}))}
    none = len(classes)

    def class_of(token: int, piece: bytes) -> int:
        if token in classes or not piece:
            return classes.get(token, none)
        spelled = of_student.first(piece)
        target = None if spelled is None else targets[spelled]
        return none if target is None else classes[target]

    student_classes = [none if token is None else classes[token] for token in targets]
    teacher_classes = [class_of(token, piece) for token, piece in enumerate(of_teacher.pieces)]
    return Classes(torch.tensor(student_classes, device=device), torch.tensor(teacher_classes, device=device), none)


def projected_kl(student_logits: Tensor, teacher_logits: Tensor, classes: Classes, temperature: float = 1.0) -> Tensor:
    """Return P · KL(p ‖ q) of the probabilities of classes, given that a token has one, which it has for the teacher with P.

    p_c = Σ_{v in c} softmax(z / T)_v / P for the teacher, and likewise q_c for the student. It is the P-KL of Sreenivas et
    al. (X-Token), arXiv 2605.21699, whose matrix W projects the student's probabilities into the teacher's vocabulary,
    with all weight on the first token of a spelling. 0 if and only if p = q. With T it shrinks as 1 / T². Not multiplied by
    T²: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V_T].
        classes: from `common_classes`.
        temperature: T > 0, for both.

    Returns:
        [C], in nats.
    """
    q = _project(student_logits, classes.student, classes.count, temperature)
    p = _project(teacher_logits, classes.teacher, classes.count, temperature)
    mass, own_mass = p.logsumexp(-1), q.logsumexp(-1)
    terms = p.exp() * (p - q - (mass - own_mass).unsqueeze(-1))
    return terms.sum(-1).clamp(min=0)


def _project(logits: Tensor, classes: Tensor, count: int, temperature: float) -> Tensor:
    """Return log-probabilities of the classes, [C, count]; by logarithms, so that unlikely ones keep a gradient."""
    import torch

    tokens = (at_least_float32(logits) / temperature).log_softmax(-1)
    index = classes.expand_as(tokens)
    least = torch.finfo(tokens.dtype).min
    largest = tokens.new_full((len(tokens), count + 1), least).scatter_reduce(1, index, tokens.detach(), "amax")
    sums = torch.zeros_like(largest).index_add(1, classes, (tokens - largest.gather(1, index)).exp())
    return (largest[:, :count] + sums[:, :count].log()).clamp(min=least)
