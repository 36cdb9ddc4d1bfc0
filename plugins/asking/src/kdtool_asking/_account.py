"""The account of a corpus that asks a teacher, for `kdtool_account`: written with the text, read by every run with it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kdtool

__all__ = ["Account"]


@dataclass
class Account:
    """Sums over all answers, the number of rows made of them, and reasons why others were left out.

    `cut_characters` of the `characters` in accepted replies surround their code, and are not in the rows.
    """

    requests: int = 0
    rows: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    picodollars: int = 0
    characters: int = 0
    cut_characters: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, answer: kdtool.TextAnswer) -> None:
        """Count an answer, accepted or not."""
        self.requests += 1
        self.tokens_in += answer.tokens_in
        self.tokens_out += answer.tokens_out
        self.picodollars += answer.picodollars

    def write(self, file: Path) -> None:
        """Store the account next to the text; without characters if none were counted."""
        account = {**vars(self), "rejected": dict(self.rejected.most_common())}
        if not self.characters:
            del account["characters"], account["cut_characters"]
        file.write_text(json.dumps(account), encoding="utf-8")

    @staticmethod
    def read(file: Path) -> Mapping[str, Any] | None:
        """Return the account in a file as plain data; None if there is none."""
        account: Mapping[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        return account
