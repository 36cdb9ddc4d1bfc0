"""Verdicts: scores read from a teacher's answer, and a record of them next to the text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["REFUSED", "Verdict", "read_scores", "reason_to_reject", "record"]

REFUSED, UNREADABLE = "refused by the judge", "unreadable verdict"
_BLOCK = re.compile(r"<verdict>((?:(?!<verdict>).)*)</verdict>\s*\Z", re.DOTALL)
_LINE = re.compile(r"^[ \t]*([a-z_][a-z0-9_]*)[ \t]*:[ \t]*(.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """The verdict on an example, with its provenance; `rejected` is the reason for the rejection, "" if it was kept."""

    id: str
    source: str
    rejected: str
    scores: Mapping[str, int]
    sentence: str
    judge: str
    model: str
    template: str
    request: str
    tokens_in: int
    tokens_out: int
    picodollars: int


def read_scores(text: str, criteria: Iterable[str]) -> tuple[Mapping[str, int], str]:
    """Return scores by criterion and the sentence of an answer that ends with a verdict; no scores if any is unreadable."""
    block = _BLOCK.search(text)
    lines = _LINE.findall(block[1]) if block else []
    values = dict(lines)
    scores = {name: values.get(name, "") for name in criteria}
    if len(values) < len(lines) or not all(score in {"1", "2", "3", "4", "5"} for score in scores.values()):
        return {}, ""
    return {name: int(score) for name, score in scores.items()}, values.get("reason", "")


def reason_to_reject(scores: Mapping[str, int], criteria: Mapping[str, int]) -> str:
    """Return why scores are rejected, "" if they are not. `criteria` are the minimum scores."""
    if not scores:
        return UNREADABLE
    return next((f"{name} below {least}" for name, least in criteria.items() if scores[name] < least), "")


def record(file: Path, verdicts: Iterable[Verdict], *, is_new: bool) -> None:
    """Append verdicts to a file of JSON Lines; with `is_new` replace the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w" if is_new else "a", encoding="utf-8", newline="\n") as lines:
        lines.writelines(json.dumps(asdict(verdict), ensure_ascii=False) + "\n" for verdict in verdicts)
