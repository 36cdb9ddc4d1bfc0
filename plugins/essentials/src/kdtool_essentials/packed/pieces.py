"""Pieces of documents that fit into rows. The packer `packed` calls this once per document.

Each kind of document is cut in its own way: plain text anywhere, an answer only together with its prompt, and a text
for infilling before its middle is moved, so that every row with a middle also has its prefix and suffix.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Protocol

import kdtool

from kdtool_essentials.packed.documents import Document, Part

_CHARACTERS_PER_TOKEN = 8
"""Characters to encode for each token of room: a piece of text with more of them per token is cut too early."""


class FillInTheMiddle(kdtool.Config):
    """Cuts some plain texts in three, and moves the middle to the end (arXiv 2207.14255)."""

    rate: float = kdtool.Field(default=0.5, ge=0, le=1)
    """Share of texts to cut. A text that is longer than a row is cut in each of its rows."""
    spm_rate: float = kdtool.Field(default=0.5, ge=0, le=1)
    """Share of the cut texts with the suffix before the prefix; in the others, the prefix comes first."""
    line_rate: float = kdtool.Field(default=0.0, ge=0, le=1)
    """Share of the cut texts whose middle ends with its line, as editors ask for it; in the others it ends anywhere."""
    seed: int = kdtool.Field(default=0, ge=0)
    """Seed that, with an example's id, decides whether and where it is cut."""


class Pieces(Protocol):
    """A document, cut piece by piece."""

    @property
    def is_finished(self) -> bool:
        """True if no piece is left."""

    def cut(self, room: int) -> Document | None:
        """Return the next piece, of at most `room` tokens; None if it needs more room, up to a whole row."""


@dataclass
class Plain:
    """Plain text, cut between any two tokens.

    A continued piece begins with the document start, if there is one; its first token of text is then not labelled.
    """

    document: Document
    done: int = 0

    @property
    def is_finished(self) -> bool:
        """True if no token is left."""
        return self.done >= len(self.document.ids)

    def cut(self, room: int) -> Document | None:
        """Return as many tokens as fit; None if there is only room for a document start."""
        start = self.document.start
        if room <= start:
            return None
        begin, self.done = self.done, self.done + room - (start if self.done else 0)
        piece = self.document.select(range(begin, min(self.done, len(self.document.ids))))
        if begin and start:
            piece.labelled[0] = False
            piece = self.document.select(range(start)).join(piece)
        return piece


@dataclass
class Answers:
    """Labelled answers after unlabelled prompts: uncut if they fit into a row of `length` tokens.

    A longer document continues in other rows. Each piece begins with the text before its answer, at most the last half row
    of it. If the answer itself was cut, its last token follows, so that the next one is predicted from it. These repeated
    tokens are not labelled. A prompt without an answer must fit.
    """

    document: Document
    length: int
    done: int = 0

    @property
    def is_finished(self) -> bool:
        """True if no labelled token is left."""
        return self.done > 0 and True not in self.document.labelled[self.done :]

    @property
    def too_long(self) -> bool:
        """True if the document has to be cut."""
        return len(self.document.ids) > self.length

    def cut(self, room: int) -> Document | None:
        """Return the whole document, or a prompt and as much of its answer as fits; None if that needs more room."""
        if not self.too_long:
            if len(self.document.ids) > room:
                return None
            self.done = len(self.document.ids)
            return self.document
        labelled = self.document.labelled
        begin = labelled.index(True, self.done)
        context = self._context(begin)
        if len(context.ids) >= room:
            return None
        stop = min(begin + room - len(context.ids), len(labelled))
        while not labelled[stop - 1]:
            stop -= 1
        self.done = stop
        return context.join(self.document.select(range(begin, stop)))

    def _context(self, begin: int) -> Document:
        """Return the unlabelled tokens that precede the answer's token at `begin` in its row."""
        document, answer = self.document, begin
        while answer and document.labelled[answer - 1]:
            answer -= 1
        half = (self.length - document.start) // 2
        before = [*range(max(document.start, answer - half), answer), *([begin - 1] if begin > answer else [])]
        surplus = len(before) - (self.length - document.start - 1)
        context = document.select([*range(document.start), *before[max(0, surplus) :]])
        context.labelled = [False] * len(context.ids)
        return context


@dataclass
class Infilling:
    """A text that is cut into pieces between characters; in each, the middle is moved to the end.

    Text that does not fit into an empty row of `length` tokens with its FIM tokens is plain text.
    """

    identifier: str
    part: Part
    tokenizer: kdtool.Tokenizer
    fim: FillInTheMiddle
    length: int
    number: int = 0
    rest: Plain | None = None

    @property
    def is_selected(self) -> bool:
        """True if the text is among the share `rate` to cut; false if it contains FIM tokens."""
        text = self.part.text
        selected = bool(text) and self._draws()[0] < self.fim.rate
        return selected and self.tokenizer.encode_infilling(text, "", "", False) is not None

    @property
    def is_finished(self) -> bool:
        """True if no text is left."""
        return self.rest.is_finished if self.rest else not self.part.text

    def cut(self, room: int) -> Document | None:
        """Return as much of the text as fits; None if it needs more room."""
        if self.rest is None:
            piece, size = self._fit(room)
            if piece is not None:
                self.part = self.part[size:]
                self.number += 1
                return piece
            if room < self.length:
                return None
            self.rest = Plain(self._plain())
        return self.rest.cut(room)

    def _fit(self, room: int) -> tuple[Document | None, int]:
        """Return a piece that fits, and its characters: as many as the tokens suggest, then fewer until it does."""
        text = self.part.text
        ids = self.tokenizer.encode(text[: _CHARACTERS_PER_TOKEN * room])
        size = len(text) if len(ids) <= room else len(self.tokenizer.decode(ids[:room]))
        size = min(size, len(text), _CHARACTERS_PER_TOKEN * room)
        while size > 0:
            piece = self._with_the_middle_last(self.part[:size])
            surplus = len(piece.ids) - room
            if surplus <= 0:
                return piece, size
            size -= max(1, size * surplus // len(piece.ids))
        return None, 0

    def _with_the_middle_last(self, part: Part) -> Document:
        """Return a piece of text, cut between any two characters, or between one and the end of its line."""
        text = part.text
        _, order, *cuts, kind = self._draws()
        suffix_first = order < self.fim.spm_rate
        first, second = (int(draw * (len(text) + 1)) for draw in cuts)
        if kind < self.fim.line_rate:
            line_end = text.find("\n", first)
            second = len(text) if line_end < 0 else line_end
        first, second = sorted((first, second))
        before, middle, after = part[:first], part[first:second], part[second:]
        ids = self.tokenizer.encode_infilling(before.text, middle.text, after.text, suffix_first) or []
        parts = [after, before, middle] if suffix_first else [before, after, middle]
        document = Document(tuple(part.columns))
        return document.add(ids, [True] * len(ids), self.tokenizer, parts).begin(self.tokenizer)

    def _plain(self) -> Document:
        document, ids = Document(tuple(self.part.columns)), self.tokenizer.encode(self.part.text)
        document.add(ids, [True] * len(ids), self.tokenizer, [self.part])
        return document.add([self.tokenizer.end_of_text], [True], self.tokenizer).begin(self.tokenizer)

    def _draws(self) -> list[float]:
        """Return five numbers in [0, 1) for the current piece: its selection, its order, its two cuts and their kind."""
        piece = f" {self.number}" if self.number else ""
        chance = random.Random(hashlib.sha256(f"fim {self.fim.seed} {self.identifier}{piece}".encode()).digest())
        return [chance.random() for _ in range(5)]
