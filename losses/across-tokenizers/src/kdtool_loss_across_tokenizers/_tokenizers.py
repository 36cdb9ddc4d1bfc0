"""The tokenizers of student and teacher, for losses that need to know what tokens stand for."""

from __future__ import annotations

from collections.abc import Generator
from functools import cached_property

import kdtool

__all__ = ["ReadsTokenizers", "Tokens", "tokenizers_of"]


class Tokens:
    """A tokenizer's vocabulary as bytes: `pieces[id]`, b"" for special tokens."""

    def __init__(self, tokenizer: kdtool.Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pieces = tuple(tokenizer.pieces(range(tokenizer.vocabulary)))

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The first id with these bytes."""
        return {piece: token for token, piece in reversed([*enumerate(self.pieces)]) if piece}

    def first(self, piece: bytes) -> int | None:
        """Return the first token of these bytes' spelling in the middle of a text; None if they cannot be spelled."""
        if piece in self.ids:
            return self.ids[piece]
        try:
            spelled = self.tokenizer.encode_behind("\n", piece.decode())
        except UnicodeDecodeError:  # a part of a character
            starts = (piece[:end] for end in range(len(piece) - 1, 0, -1))
            return next((self.ids[start] for start in starts if start in self.ids), None)
        return spelled[0] if spelled and self.pieces[spelled[0]] else None


class ReadsTokenizers(kdtool.SequenceLoss):
    """A loss that needs both tokenizers; while a phase trains, `tokenizers` holds them. Set it in your own loop."""

    tokenizers: tuple[kdtool.Tokenizer, kdtool.Tokenizer] | None = None
    """The student's and the teacher's."""

    @kdtool.hookimpl(wrapper=True)
    def kdtool_train(self, run: kdtool.RunInfo, phase: kdtool.Phase) -> Generator[None, kdtool.Trained, kdtool.Trained]:
        """Find the tokenizers for the phase."""
        teachers = [term.teacher for term in phase.terms if run.component(term.name, kdtool.Loss).config is self.config]
        (student,) = run.implementing("kdtool_build_student")
        student_tokenizer = run.component(student, kdtool.Student).kdtool_tokenizer(run)
        teacher = teachers[0] if teachers else None
        tokenizer = None if teacher is None else run.component(teacher, kdtool.Teacher).kdtool_tokenizer(run)
        if tokenizer is not None:
            self.tokenizers = student_tokenizer, tokenizer
        return (yield)


def tokenizers_of(loss: ReadsTokenizers, name: str) -> tuple[kdtool.Tokenizer, kdtool.Tokenizer]:
    """Return the student's and the teacher's tokenizer.

    Raises:
        PluginError: they are unknown.
    """
    if loss.tokenizers is None:
        raise kdtool.PluginError(
            f"{name} does not know the tokenizers, which it finds when a phase of kdtool begins; in another training loop "
            "set `loss.tokenizers = student, teacher`"
        )
    return loss.tokenizers
