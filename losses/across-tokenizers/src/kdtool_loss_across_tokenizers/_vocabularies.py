"""Distributions over two vocabularies: compared by classes of tokens (X-Token) or by sorted probabilities (ULD).

Classes need both tokenizers, which `ReadsTokenizers` finds when a phase begins. Sorted probabilities need none.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import kdtool
from kdtool_torch import at_least_float32

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Pieces:
    """A tokenizer's vocabulary as bytes: `pieces[id]`, b"" for special tokens."""

    def __init__(self, tokenizer: kdtool.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.pieces = tokenizer.pieces(range(tokenizer.vocabulary))
        self._ids = {piece: token for token, piece in reversed([*enumerate(self.pieces)]) if piece}

    def first(self, piece: bytes) -> int | None:
        """Return the first token of these bytes' spelling in the middle of a text; None if they cannot be spelled."""
        if piece in self._ids:
            return self._ids[piece]
        try:
            spelled = self._tokenizer.encode_behind("\n", piece.decode())
        except UnicodeDecodeError:  # a part of a character
            starts = (piece[:end] for end in range(len(piece) - 1, 0, -1))
            return next((self._ids[start] for start in starts if start in self._ids), None)
        begins = bool(spelled) and bool(self.pieces[spelled[0]]) and piece.startswith(self.pieces[spelled[0]])
        return spelled[0] if begins else None


class ReadsTokenizers(kdtool.SequenceLoss):
    """A loss that needs both tokenizers; while a phase trains, `tokenizers` holds them. Set it in your own loop."""

    tokenizers: tuple[kdtool.Tokenizer, kdtool.Tokenizer] | None = None
    """The student's and the teacher's."""

    @kdtool.hookimpl(wrapper=True)
    def kdtool_train(self, run: kdtool.RunInfo, phase: kdtool.Phase) -> Generator[None, kdtool.Trained, kdtool.Trained]:
        """Find the tokenizers for the phase."""
        own = [term.teacher for term in phase.terms if run.component(term.name, kdtool.Loss).config is self.config]
        (student,) = run.implementing("kdtool_build_student")
        for teacher in filter(None, own):
            tokenizer = run.component(teacher, kdtool.Teacher).kdtool_tokenizer(run)
            if tokenizer is not None:
                self.tokenizers = run.component(student, kdtool.Student).kdtool_tokenizer(run), tokenizer
        return (yield)

    def known_tokenizers(self, name: str) -> tuple[kdtool.Tokenizer, kdtool.Tokenizer]:
        """Return `tokenizers`.

        Raises:
            PluginError: they are unknown.
        """
        if self.tokenizers is None:
            raise kdtool.PluginError(
                f"{name} does not know the tokenizers, which it finds when a phase of kdtool begins; in another training "
                "loop set `loss.tokenizers = student, teacher`"
            )
        return self.tokenizers


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


def sorted_distance(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return Σ_i |p_(i) − q_(i)|, p_(i) and q_(i) the i-th largest of the teacher's and the student's softmax(z / T).

    The shorter list is continued with zeros. This is the Wasserstein-1 distance under a cost that is equal for all pairs
    of tokens. Between 0 and 2; 0 if both have the same probabilities, on any tokens. Boizard et al. (ULD),
    arXiv 2402.12030, section 3. Its gradient is that of a sum of absolute values: where p_(i) = q_(i) it is 0.
    With T it shrinks as 1 / T. Not multiplied by T: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V_T], any other number of tokens in any order; −∞ stands for probability 0.
        temperature: T > 0, for both.

    Returns:
        [C].
    """
    q, p = _sort_probabilities(student_logits, temperature), _sort_probabilities(teacher_logits, temperature)
    both = min(q.shape[-1], p.shape[-1])
    return (q[:, :both] - p[:, :both]).abs().sum(-1) + q[:, both:].sum(-1) + p[:, both:].sum(-1)


def _sort_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (at_least_float32(logits) / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True).values
