"""The tokenizers of student and teacher, for losses that need to know what tokens stand for."""

from __future__ import annotations

from collections.abc import Generator

import kdtool

__all__ = ["Pieces", "ReadsTokenizers"]


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
