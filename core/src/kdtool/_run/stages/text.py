"""The text artefact: examples of all corpora after the filters, in one JSON Lines file per split, and their counts.

Examples of several corpora are one stream: one corpus after the other, or mixed by their shares. Filters see batches.
Mixed corpora are read a batch at a time, so that only one of each is in memory. Documents and bytes are counted by split
and corpus, kept, rejected and left out.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from kdtool._contract.data import Completion, DetailedMessages, Example, Messages, Preference, Split, Text, parts_of
from kdtool._contract.run_info import RunInfo
from kdtool._contract.sources import Corpus, Filter
from kdtool._errors import PluginError, UsageError
from kdtool._store.artefacts import check_file
from kdtool._text.terminal import count_of

COUNTS = "counts.json"


def write_texts(
    run: RunInfo, folder: Path, corpora: Sequence[str], filters: Sequence[str], shares: Mapping[str, float]
) -> None:
    """Gather, filter and write the examples of the named corpora, mixed by `shares` where there are any.

    Raises as `gather`.
    """
    counts, hooks = Counts(corpora, shares), run.hook
    files = {split: (folder / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") for split in get_args(Split)}
    try:
        number = 0
        for number, (corpus, example) in enumerate(gather(run, corpora, filters, shares, counts), 1):
            files[example.split].write(json.dumps(_to_plain(example), ensure_ascii=False) + "\n")
            counts.add(corpus, example)
            if number % 100 == 0:
                hooks.kdtool_progress(run, number, None)
        hooks.kdtool_progress(run, number, None)
    finally:
        for file in files.values():
            file.close()
    for corpus, (documents, size) in counts.left_out().items():
        run.say(f"{corpus}: its share had no room for {count_of(documents, 'document')} ({size:,} bytes)")
    (folder / COUNTS).write_text(json.dumps(counts.summary(), indent=1), encoding="utf-8")


class StoredTexts:
    """A `TextSource` on a text artefact."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def examples(self, split: Split) -> Iterator[Example]:
        """Yield the examples of one split, in the order in which they were written."""
        with check_file(self.folder, f"{split}.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield _from_plain(json.loads(line), split)

    def counts(self, corpora: Sequence[str]) -> dict[str, Any]:
        """Return documents and bytes per split, licences, languages, sources, the same of each corpus, and rejections.

        Args:
            corpora: the recipe's names of the corpora, in its order; recipes that share the text may name them otherwise.
        """
        counts: dict[str, Any] = json.loads(check_file(self.folder, COUNTS).read_text(encoding="utf-8"))
        return {**counts, "corpora": dict(zip(corpora, counts["corpora"], strict=True))}


def _to_plain(example: Example) -> dict[str, Any]:
    body = example.body
    if isinstance(body, Text):
        content: dict[str, Any] = {"text": body.text}
    elif isinstance(body, Completion):
        content = {"prompt": body.prompt, "completion": body.completion}
        content |= {"rejected": body.rejected} if isinstance(body, Preference) else {}
    else:
        content = {"turns": body.turns}
        content |= {"details": body.details, "tools": body.tools} if isinstance(body, DetailedMessages) else {}
    about = {
        "language": example.language,
        "licence": example.licence,
        "source": example.source,
        "meta": dict(example.meta),
    }
    return {"id": example.id, **content, **{key: value for key, value in about.items() if value}}


def _from_plain(data: Mapping[str, Any], split: Split) -> Example:
    if "text" in data:
        body: Text | Completion | Messages = Text(data["text"])
    elif "rejected" in data:
        body = Preference(data["prompt"], data["completion"], data["rejected"])
    elif "prompt" in data:
        body = Completion(data["prompt"], data["completion"])
    else:
        turns = tuple((role, content) for role, content in data["turns"])
        detailed = "details" in data
        body = DetailedMessages(turns, tuple(data["details"]), tuple(data["tools"])) if detailed else Messages(turns)
    about = {key: data.get(key, "") for key in ("language", "licence", "source")}
    return Example(data["id"], body, split, meta=data.get("meta", {}), **about)


_FILTER_BATCH = 256
Tagged = tuple[str, Example]
"""An example with the name of its corpus."""


def gather(
    run: RunInfo, corpora: Sequence[str], filters: Sequence[str], shares: Mapping[str, float], counts: Counts
) -> Iterator[Tagged]:
    """Yield the examples of all corpora that the filters keep.

    Without shares the corpora follow each other. With them, examples of the split "train" alternate so that every beginning
    of the stream holds each corpus's share of the bytes, to within a document. They end as soon as the next corpus in turn
    is exhausted, and the rest of the others is only counted. Examples of other splits are all kept.

    Raises:
        PluginError: a corpus yields an id twice, an unknown split or text that is not valid Unicode, or a filter returns
            another number of verdicts than it got examples.
        UsageError: a corpus with a share yields no example of the split "train".
    """
    if not shares:
        yield from _filter(run, filters, (pair for name in corpora for pair in _read(run, name)), counts)
        return
    streams = {name: _Stream(run, name, filters, counts) for name in corpora}
    used = dict.fromkeys(corpora, 0)
    while True:
        name = min(corpora, key=lambda name: used[name] / shares[name])
        example = yield from streams[name].next_to_learn()
        if example is None:
            break
        used[name] += size_of(example)
        yield name, example
    if not used[name]:
        raise UsageError(
            f"{run.hook.owner(name)} has the share {shares[name]:g} and yields no text of the split 'train'; "
            "remove its share, or check its settings and the filters"
        )
    for stream in streams.values():
        yield from stream.leave_out_the_rest()


class _Stream:
    """One corpus that is mixed with others: filtered training examples one at a time; others pass through."""

    def __init__(self, run: RunInfo, name: str, filters: Sequence[str], counts: Counts) -> None:
        self._name = name
        self._run = run
        self._filters = filters
        self._counts = counts
        self._source = _read(run, name)
        self._ready: deque[Example] = deque()

    def next_to_learn(self) -> Generator[Tagged, None, Example | None]:
        """Yield examples of other splits up to the next training example, and return that; None at the end."""
        while not self._ready:
            batch = list(islice(self._source, _FILTER_BATCH))
            if not batch:
                return None
            for name, example in _filter(self._run, self._filters, batch, self._counts):
                if example.split == "train":
                    self._ready.append(example)
                else:
                    yield name, example
        return self._ready.popleft()

    def leave_out_the_rest(self) -> Iterator[Tagged]:
        """Yield the remaining examples of other splits, and count those of the training split."""
        for example in self._ready:
            self._counts.leave_out(self._name, example)
        others = self._others()
        yield from _filter(self._run, self._filters, others, self._counts)

    def _others(self) -> Iterator[Tagged]:
        for name, example in self._source:
            if example.split == "train":
                self._counts.leave_out(name, example)
            else:
                yield name, example


def _read(run: RunInfo, corpus: str) -> Iterator[Tagged]:
    seen: set[str] = set()
    for example in run.component(corpus, Corpus).kdtool_examples(run):
        # The commonest mistakes of a new corpus: a body that is plain text, and a split like "dev".
        if example.split not in get_args(Split) or not isinstance(example.body, Text | Completion | Messages):
            raise PluginError(
                f"{run.hook.owner(corpus)} yields example {example.id!r} with the split {example.split!r} and a body of "
                f"type {type(example.body).__name__}; expected one of {', '.join(get_args(Split))}, and a kdtool.Text, "
                "kdtool.Completion or kdtool.Messages"
            )
        if example.id in seen:
            raise PluginError(f"{run.hook.owner(corpus)} yields the example id {example.id!r} twice")
        if not _is_text(example):
            raise PluginError(f"{run.hook.owner(corpus)} yields text in {example.id!r} that cannot be written as UTF-8")
        seen.add(example.id)
        yield corpus, example


def _filter(run: RunInfo, filters: Sequence[str], examples: Iterable[Tagged], counts: Counts) -> Iterator[Tagged]:
    iterator = iter(examples)
    while batch := list(islice(iterator, _FILTER_BATCH)):
        for filter_ in filters:
            verdicts = run.component(filter_, Filter).kdtool_filter(run, [example for _, example in batch])
            if len(verdicts) != len(batch):
                raise PluginError(f"{run.hook.owner(filter_)} judged {len(verdicts)} of {len(batch)} examples")
            judged = list(zip(batch, verdicts, strict=True))
            counts.reject(filter_, ((*pair, verdict) for pair, verdict in judged if verdict is not None))
            batch = [pair for pair, verdict in judged if verdict is None]
        yield from batch


def _is_text(example: Example) -> bool:
    """Return whether everything can be written as UTF-8; Python strings may hold lone surrogates."""
    roles = tuple(role for role, _ in example.body.turns) if isinstance(example.body, Messages) else ()
    fields = (example.id, example.language, example.licence, example.source, *example.meta, *example.meta.values())
    try:
        "".join((*fields, *texts_of(example), *roles)).encode()
    except UnicodeEncodeError:
        return False
    return True


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
