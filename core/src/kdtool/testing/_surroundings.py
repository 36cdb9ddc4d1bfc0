"""What a component under test stands in: a run, a listening tracker, a tokenizer, rows in memory. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool._contract.component import Component
from kdtool._contract.data import Example, Row, Split
from kdtool._contract.reporting import Tracker
from kdtool._contract.run_info import RunInfo
from kdtool._contract.tokenizer import Tokenizer

__all__ = ["ByteTokenizer", "ListSource", "Listener", "make_run"]


class _ListTexts:
    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def examples(self, split: Split) -> Iterator[Example]:
        return (example for example in self._examples if example.split == split)


def make_run(
    folder: Path,
    components: Mapping[str, Component] | None = None,
    examples: Sequence[Example] = (),
    **fields: Any,
) -> RunInfo:
    """Return a run's surroundings for tests.

    Args:
        folder: the folder that the component may write into.
        components: what `run.hook` reaches, by name.
        examples: what `run.texts` gives.
        fields: further fields of `RunInfo`, for instance `seed` or `offline`.
    """
    from kdtool._plugins.hooks import ComponentHooks

    given = {"name": "test", "stage": "test", **fields}
    return RunInfo(folder=folder, hook=ComponentHooks(components or {}), texts=_ListTexts(examples), **given)


class Listener(Tracker):
    """A tracker that remembers what it was told of progress."""

    def __init__(self) -> None:
        super().__init__(self.Config())
        self.progress: list[int] = []

    def kdtool_progress(self, run: RunInfo, done: int) -> None:
        self.progress.append(done)


class ByteTokenizer(Tokenizer):
    """One token for each byte of UTF-8, and 256 for the end of a text."""

    vocabulary = 257
    end_of_text = 256
    fingerprint = "bytes"
    chat_fingerprint = ""

    def encode(self, text: str) -> list[int]:
        """Return the bytes of `text`."""
        return list(text.encode("utf-8"))

    def encode_chat(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]] | None:
        """Return None: there is no template."""

    def encode_infilling(self, before: str, middle: str, after: str, suffix_first: bool) -> list[int] | None:
        """Return None: there are no marks."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; broken characters become U+FFFD."""
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the byte of each id, none for the end of a text."""
        return [bytes([i]) if i < 256 else b"" for i in ids]

    def tokens(self) -> list[str]:
        """Return a name for each byte, and for the end of a text."""
        return [*(f"<{byte:02x}>" for byte in range(256)), "<end>"]

    def save(self, folder: Path) -> None:
        """Write the files from which `transformers.AutoTokenizer` opens it."""
        from kdtool.testing._toy import write_tokenizer

        write_tokenizer(folder)


class SpacedTokenizer(ByteTokenizer):
    """Puts a space before every text, which decoding takes away, as tokenizers in the manner of sentencepiece do."""

    fingerprint = "bytes behind a space"

    def encode(self, text: str) -> list[int]:
        """Return a space and the bytes of `text`."""
        return super().encode(f" {text}" if text else "")

    def encode_behind(self, before: str, text: str) -> list[int]:
        """Return the bytes of `text`, behind a space only where nothing stands before."""
        return super().encode(text) if before else self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without the space before it."""
        return super().decode(ids).removeprefix(" ")

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the byte of each id, none for the space before the text."""
        found = super().pieces(ids)
        first = next((number for number, piece in enumerate(found) if piece), None)
        if first is not None and found[first] == b" ":
            found[first] = b""
        return found


class StartedTokenizer(ByteTokenizer):
    """Begins every document with a token of its own, 257, as tokenizers in the manner of Llama's do."""

    vocabulary = 258
    document_start = (257,)
    fingerprint = "bytes behind a start"

    def tokens(self) -> list[str]:
        """Return a name for each byte, for the end of a text and for its start."""
        return [*super().tokens(), "<start>"]


class ListSource:
    """Rows in memory, as a `kdtool.RowSource`."""

    fingerprint = "rows of a test"

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.length = len(rows[0].input_ids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]
