"""Counts of documents and bytes in a text artefact: by split and corpus, kept, rejected and left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from kdtool._contract.data import Example, Preference, Split, parts_of

_SHOWN, _SAMPLES = 20, 3
_ABOUT = {"licences": "licence", "languages": "language", "sources": "source"}


def texts_of(example: Example) -> tuple[str, ...]:
    """Return all texts of an example: the parts of its body, and the rejected completion of a preference."""
    rejected = (example.body.rejected,) if isinstance(example.body, Preference) else ()
    return (*parts_of(example.body), *rejected)


def size_of(example: Example) -> int:
    """Return the bytes of an example's texts."""
    return sum(len(text.encode()) for text in texts_of(example))


class Counts:
    """Counts examples as they are written."""

    def __init__(self, corpora: Iterable[str], shares: Mapping[str, float]) -> None:
        self._shares = shares
        self._splits: dict[str, dict[str, int]] = {split: {"documents": 0, "bytes": 0} for split in get_args(Split)}
        self._by: dict[str, Counter[str]] = {name: Counter() for name in _ABOUT}
        self._corpora = {name: _Corpus() for name in corpora}
        self._rejected: dict[str, Counter[str]] = {}
        self._samples: dict[str, list[str]] = {}

    def add(self, corpus: str, example: Example) -> None:
        """Count an example that was written."""
        size, counts = size_of(example), self._corpora[corpus]
        for counter in (self._splits[example.split], counts.kept):
            counter["documents"] += 1
            counter["bytes"] += size
        counts.train_bytes += size if example.split == "train" else 0
        for name, attribute in _ABOUT.items():
            value = getattr(example, attribute) or "unknown"
            self._by[name][value] += 1
            counts.by[name][value] += 1

    def reject(self, filter_: str, examples: Iterable[tuple[str, Example, str]]) -> None:
        """Count examples that a filter rejected, each with its corpus and the reason; keep the ids of the first ones."""
        reasons = self._rejected.setdefault(filter_, Counter())
        for corpus, example, reason in examples:
            if reasons[reason] < _SAMPLES:
                self._samples.setdefault(f"{filter_}: {reason}", []).append(example.id)
            reasons[reason] += 1
            self._corpora[corpus].rejected[reason] += 1

    def leave_out(self, corpus: str, example: Example) -> None:
        """Count an example that exceeds the share of its corpus."""
        left_out = self._corpora[corpus].left_out
        left_out["documents"] += 1
        left_out["bytes"] += size_of(example)

    def left_out(self) -> dict[str, tuple[int, int]]:
        """Return documents and bytes that exceeded the shares, of each corpus that has any."""
        counters = {name: counts.left_out for name, counts in self._corpora.items() if counts.left_out["documents"]}
        return {name: (counter["documents"], counter["bytes"]) for name, counter in counters.items()}

    def summary(self) -> dict[str, Any]:
        """Return everything as plain data; corpora in their order, since the artefact knows no names."""
        by = {name: dict(counter.most_common(_SHOWN)) for name, counter in self._by.items()}
        train = sum(counts.train_bytes for counts in self._corpora.values())
        return {
            "splits": self._splits,
            **by,
            "corpora": [self._describe(name, counts, train) for name, counts in self._corpora.items()],
            "rejected": {name: dict(reasons) for name, reasons in self._rejected.items()},
            **({"rejected_examples": self._samples} if self._samples else {}),
        }

    def _describe(self, name: str, counts: _Corpus, train: int) -> dict[str, Any]:
        about = {key: dict(counts.by[key].most_common(_SHOWN)) for key in ("licences", "languages")}
        about |= {"rejected": dict(counts.rejected.most_common(_SHOWN))} if counts.rejected else {}
        if name not in self._shares:
            return {**counts.kept, **about}
        left_out = {f"left_out_{key}": value for key, value in counts.left_out.items()}
        share = {"share_wanted": self._shares[name], "share_of_training": counts.train_bytes / train if train else 0.0}
        return {**counts.kept, **share, **left_out, **about}


@dataclass
class _Corpus:
    kept: Counter[str] = field(default_factory=lambda: Counter(documents=0, bytes=0))
    left_out: Counter[str] = field(default_factory=lambda: Counter(documents=0, bytes=0))
    rejected: Counter[str] = field(default_factory=Counter)
    by: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in _ABOUT})
    train_bytes: int = 0
