"""The text artefact: examples of all corpora after the filters, in one JSON Lines file per split, and their counts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from kdtool._contract.data import Completion, Example, Messages, Preference, Split, Text
from kdtool._contract.run_info import RunInfo
from kdtool._run.stages.counts import Counts
from kdtool._run.stages.gathering import gather
from kdtool._store.artefacts import check_file

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
                hooks.kdtool_progress(run, number)
        hooks.kdtool_progress(run, number)
    finally:
        for file in files.values():
            file.close()
    for corpus, (documents, size) in counts.left_out().items():
        run.say(f"{corpus}: its share had no room for {documents:,} documents ({size:,} bytes)")
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
        body = Messages(tuple((role, content) for role, content in data["turns"]))
    about = {key: data.get(key, "") for key in ("language", "licence", "source")}
    return Example(data["id"], body, split, meta=data.get("meta", {}), **about)
