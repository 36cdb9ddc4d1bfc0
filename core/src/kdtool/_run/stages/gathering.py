"""Examples of several corpora as one stream, after the filters: one corpus after the other, or mixed by their shares.

`write_texts` writes the stream. Filters see batches. Mixed corpora are read a batch at a time, so that only one of each
is in memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import get_args

from kdtool._contract.corpus import Corpus, Filter
from kdtool._contract.data import Completion, Example, Messages, Split, Text
from kdtool._contract.run_info import RunInfo
from kdtool._errors import PluginError, UsageError
from kdtool._run.stages.counts import Counts, size_of, texts_of

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
