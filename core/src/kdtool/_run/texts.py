"""The text artefact: examples of all corpora after the screens, one JSON Lines file a split, and a count of everything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from kdtool._contract.kinds import Hooks
from kdtool._contract.text import Completion, Example, Messages, Split, Text
from kdtool._contract.training import RunInfo
from kdtool._errors import PluginError

__all__ = ["StoredTexts", "write_texts"]

COUNTS = "counts.json"
_SCREEN_BATCH = 256


def write_texts(run: RunInfo, folder: Path, corpora: Sequence[str], screens: Sequence[str]) -> None:
    """Gather, screen and write the examples of the named corpora.

    Raises:
        PluginError: a corpus gives an id twice or what is no text, or a screen judges another number of examples than it
            was given.
    """
    counts, hooks = _Counts(), run.hook
    files = {split: (folder / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") for split in get_args(Split)}
    try:
        for number, example in enumerate(_screened(hooks, screens, _gathered(run, corpora), counts)):
            files[example.split].write(json.dumps(_to_plain(example), ensure_ascii=False) + "\n")
            counts.add(example)
            if number % 100 == 0:
                hooks.kdtool_progress(run, number)
    finally:
        for file in files.values():
            file.close()
    (folder / COUNTS).write_text(json.dumps(counts.summary(), indent=1), encoding="utf-8")


class StoredTexts:
    """A `TextSource` on a text artefact."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def examples(self, split: Split) -> Iterator[Example]:
        """Yield the examples of one split, in the order in which they were written."""
        with (self.folder / f"{split}.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield _from_plain(json.loads(line), split)

    def counts(self) -> dict[str, Any]:
        """Return documents and bytes a split, licences, languages, sources, and what screens rejected."""
        counts: dict[str, Any] = json.loads((self.folder / COUNTS).read_text(encoding="utf-8"))
        return counts


def _gathered(run: RunInfo, corpora: Sequence[str]) -> Iterator[Example]:
    for corpus in corpora:
        seen: set[str] = set()
        for example in run.hook.kdtool_examples.of(corpus)(run):
            if example.id in seen:
                raise PluginError(f"{run.hook.owner(corpus)} gives the example id {example.id!r} twice")
            if not _is_text(example):
                raise PluginError(f"{run.hook.owner(corpus)} gives text in {example.id!r} that no file can hold")
            seen.add(example.id)
            yield example


def _screened(hooks: Hooks, screens: Sequence[str], examples: Iterable[Example], counts: _Counts) -> Iterator[Example]:
    iterator = iter(examples)
    while batch := list(islice(iterator, _SCREEN_BATCH)):
        for screen in screens:
            verdicts = hooks.kdtool_screen.of(screen)(batch)
            if len(verdicts) != len(batch):
                raise PluginError(f"{hooks.owner(screen)} judged {len(verdicts)} of {len(batch)} examples")
            counts.reject(screen, (verdict.reason for verdict in verdicts if verdict is not None))
            batch = [example for example, verdict in zip(batch, verdicts, strict=True) if verdict is None]
        yield from batch


class _Counts:
    def __init__(self) -> None:
        self.splits: dict[str, dict[str, int]] = {split: {"documents": 0, "bytes": 0} for split in get_args(Split)}
        self.by: dict[str, Counter[str]] = {"licences": Counter(), "languages": Counter(), "sources": Counter()}
        self.rejected: dict[str, Counter[str]] = {}

    def add(self, example: Example) -> None:
        self.splits[example.split]["documents"] += 1
        self.splits[example.split]["bytes"] += sum(len(text.encode()) for text in _parts(example))
        for name, value in (
            ("licences", example.licence),
            ("languages", example.language),
            ("sources", example.source),
        ):
            self.by[name][value or "unknown"] += 1

    def reject(self, screen: str, reasons: Iterable[str]) -> None:
        self.rejected.setdefault(screen, Counter()).update(reasons)

    def summary(self) -> dict[str, Any]:
        by = {name: dict(counter.most_common(20)) for name, counter in self.by.items()}
        return {"splits": self.splits, **by, "rejected": {name: dict(found) for name, found in self.rejected.items()}}


def _is_text(example: Example) -> bool:
    """Return whether everything can be written as UTF-8: strings may hold lone surrogates."""
    fields = (example.id, example.language, example.licence, example.source, *example.meta, *example.meta.values())
    try:
        "".join((*fields, *_parts(example), *_roles(example))).encode()
    except UnicodeEncodeError:
        return False
    return True


def _roles(example: Example) -> tuple[str, ...]:
    return tuple(role for role, _ in example.body.turns) if isinstance(example.body, Messages) else ()


def _parts(example: Example) -> tuple[str, ...]:
    body = example.body
    if isinstance(body, Text):
        return (body.text,)
    if isinstance(body, Completion):
        return (body.prompt, body.completion)
    return tuple(content for _, content in body.turns)


def _to_plain(example: Example) -> dict[str, Any]:
    body = example.body
    if isinstance(body, Text):
        content: dict[str, Any] = {"text": body.text}
    elif isinstance(body, Completion):
        content = {"prompt": body.prompt, "completion": body.completion}
    else:
        content = {"turns": body.turns}
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
    elif "prompt" in data:
        body = Completion(data["prompt"], data["completion"])
    else:
        body = Messages(tuple((role, content) for role, content in data["turns"]))
    about = {key: data.get(key, "") for key in ("language", "licence", "source")}
    return Example(data["id"], body, split, meta=data.get("meta", {}), **about)
