"""The filter `duplicates`: rejects exact and near-duplicates of earlier texts.

Whole texts are remembered in a temporary database on disk, with the first example that had each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import finalize

import kdtool

from kdtool_data.lines import split_lines

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdtool_data.duplicates.near import NearTexts


__all__ = ["DuplicatesFilter"]
_WORDS = 5
"""Words per shingle; names, numbers and signs count as words."""
_REMEMBERED = 1_000_000
"""Kept texts, the newest ones, that are compared for near-duplicates. Exact duplicates are found among all."""


class DuplicatesFilter(kdtool.Filter):
    """Rejects examples that equal a kept one except for white space at the ends of lines, or share most of its shingles.

    The first of several is kept. A kept example that is judged again is kept again, even if its text was repaired.
    """

    extra = "duplicates"

    class Config(kdtool.Config):
        """Settings of `duplicates`."""

        near: float | None = kdtool.Field(default=0.8, ge=0.5, le=1)
        """Minimum Jaccard index of the shingles of near-duplicates; null rejects only exact duplicates."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._folder: Path | None = None
        self._exact: ExactTexts | None = None
        self._near: NearTexts | None = None

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        """Return "duplicate" or "near-duplicate", or None for the first of each kind."""
        if run.folder != self._folder:  # another text, for example of another phase
            self.kdtool_close()
            self._open(run.folder)
        texts = [_text_of(example) for example in examples]
        if self._near is None or not examples:
            return [self._judge(example, text) for example, text in zip(examples, texts, strict=True)]
        from kdtool_data.duplicates.near import shingles_of

        shingles = [shingles_of(text, _WORDS) for text in texts]
        signatures = self._near.signatures(shingles)
        return [self._judge(*arguments) for arguments in zip(examples, texts, shingles, signatures, strict=True)]

    def kdtool_close(self) -> None:
        """Delete the temporary files."""
        for texts in (self._exact, self._near):
            if texts is not None:
                texts.close()
        self._folder = self._exact = self._near = None

    def _open(self, folder: Path) -> None:
        self._folder, self._exact = folder, ExactTexts()
        if self.config.near is not None:
            from kdtool_data.duplicates.near import NearTexts

            self._near = NearTexts(self.config.near, _REMEMBERED)

    def _judge(
        self,
        example: kdtool.Example,
        text: str,
        shingles: NDArray[np.uint64] | None = None,
        signature: NDArray[np.uint32] | None = None,
    ) -> str | None:
        assert self._exact is not None  # noqa: S101 - opened before
        number, owner = number_of(text), number_of(example.id, example.source, example.split)
        first = self._exact.owner(number)
        if first is not None:
            return None if first == owner else "duplicate"
        if self._near is not None and shingles is not None and signature is not None and len(shingles):
            if self._near.has_near(shingles, signature, owner):
                return "near-duplicate"
            self._near.add(shingles, signature, owner)
        self._exact.add(number, owner)
        return None


def _text_of(example: kdtool.Example) -> str:
    body = example.body
    rejected = (body.rejected,) if isinstance(body, kdtool.Preference) else ()
    text = "\n".join((*kdtool.parts_of(body), *rejected)).strip()
    return "\n".join(line.rstrip() for line in split_lines(text))


_CACHE_KIBIBYTES = 16_384


class ExactTexts:
    """Texts by 64 bits of their hash. Memory stays constant, disk space grows by about 30 bytes per text."""

    def __init__(self) -> None:
        self._database = sqlite3.connect(
            "", isolation_level=None, check_same_thread=False
        )  # a file that SQLite deletes
        finalize(self, self._database.close)
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIBIBYTES}"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE texts (text INTEGER PRIMARY KEY, owner INTEGER)")

    def owner(self, text: int) -> int | None:
        """Return the first example that had a text, None for a new text."""
        row = self._database.execute("SELECT owner FROM texts WHERE text = ?", (text,)).fetchone()
        return None if row is None else int(row[0])

    def add(self, text: int, owner: int) -> None:
        """Remember a text."""
        self._database.execute("INSERT OR IGNORE INTO texts VALUES (?, ?)", (text, owner))

    def close(self) -> None:
        """Delete everything."""
        self._database.close()


def number_of(*texts: str) -> int:
    """Return a signed hash of 64 bits for texts in this order, the same in every process."""
    digest = blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little", signed=True)
