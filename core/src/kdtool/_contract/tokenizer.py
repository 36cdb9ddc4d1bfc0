"""The base of tokenizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from kdtool._errors import UsageError


class Tokenizer(ABC):
    """Text to token ids and back.

    Required: `vocabulary`, `end_of_text`, `fingerprint` (class attributes will do), `encode` and `pieces`. Everything else
    has a default for plain tokenizers: without special tokens before a text, chat template or FIM tokens.
    """

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """The true vocabulary size V: ids are below it."""

    @property
    @abstractmethod
    def end_of_text(self) -> int:
        """The id that ends a document."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies the map from text to ids: equal fingerprints mean equal tokenizers."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without special tokens added."""

    @abstractmethod
    def pieces(self, ids: Sequence[int]) -> Sequence[bytes]:
        """Return the bytes that each of `ids` adds to their text, none for special tokens: together the UTF-8 of `decode`.

        A character may be divided among tokens; ids may begin and end within one. Since 0.1.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out. By default the text of their `pieces`."""
        return b"".join(self.pieces(ids)).decode("utf-8", errors="replace")

    def tokens(self) -> Sequence[str]:
        """Return every id's token as the tokenizer names it, in order of ids, "" for an id without one: `vocabulary` names.

        If two tokenizers begin with the same names, these ids mean the same to models of both. By default an id is named by
        its bytes; special tokens except the end, and further ids of the same bytes, have names that are unique to this
        tokenizer.
        Since 0.1.
        """
        names: list[str] = []
        known = {b""}
        for number, piece in enumerate(self.pieces(range(self.vocabulary))):
            name = f"<{self.fingerprint} {number}>" if piece in known else f"<{piece.hex()}>"
            names.append("<end>" if number == self.end_of_text else name)
            known.add(piece)
        return names

    def save(self, folder: Path) -> None:
        """Write the files from which `transformers.AutoTokenizer` opens it.

        Raises:
            UsageError: it has no such files, which is the default: students with this tokenizer cannot be saved for others.
        """
        raise UsageError(f"{type(self).__name__} cannot be written as files of transformers; implement Tokenizer.save")

    @property
    def document_start(self) -> tuple[int, ...]:
        """The ids that begin every document: those that the tokenizer itself puts before a text, such as Llama's `<s>`.

        () if it puts none. They stand for no bytes of text. Since 0.1.
        """
        return ()

    @property
    def scoring_context(self) -> tuple[int, ...]:
        """The ids after which the first token of a text is scored: `document_start`, else the end-of-text token.

        Models without a start token are pre-trained on documents that follow each other, so that most of them
        come after an end of text. Since 0.1.
        """
        return self.document_start or (self.end_of_text,)

    def missing_start(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return the ids to put before a document: `document_start`, or () if `ids` already begin with it.

        Chat templates may write it themselves. Since 0.1.
        """
        start = self.document_start
        return () if tuple(ids[: len(start)]) == start else start

    def encode_behind(self, before: str, text: str) -> list[int]:
        """Return the ids of `text` when it follows `before`, so that the ids of both, in this order, decode to both.

        A sentencepiece-style tokenizer, which puts a space before every text, adds none here. No token belongs to both
        texts. The last part of the preceding text is enough; "" if there is none. Since 0.1.
        """
        return self.encode(text)

    chat_fingerprint: str = ""
    """Identifies the template of `encode_chat`; "" if the tokenizer has none. Since 0.1."""

    def encode_chat(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]] | None:
        """Return the ids of a conversation in the tokenizer's template, and for each whether it is learned.

        The assistant's answers are learned, each with the token that ends it. None if there is no template. Raises a
        `UsageError` if a template cannot be split in this way, or refuses the conversation. Since 0.1.
        """
        return None

    def encode_prompt(self, turns: Sequence[tuple[str, str]], opening: str = "") -> list[int]:
        """Return the ids of a conversation in the tokenizer's template, up to the assistant's next turn: what a model gets.

        That turn begins with `opening`. The ids begin with `document_start`. Since 0.1.

        Raises:
            UsageError: a chat template is missing, or it refuses the conversation.
        """
        raise UsageError(f"{type(self).__name__} lacks a chat template for prompts; implement Tokenizer.encode_prompt")

    def encode_infilling(self, before: str, middle: str, after: str, suffix_first: bool) -> list[int] | None:
        """Return the ids of a text whose middle comes last, between the tokenizer's FIM tokens, and its end.

        `before` comes first, or with `suffix_first` the text after the middle. None if there are no FIM tokens. Since 0.1.
        """
        return None
