"""Export of training text: JSON Lines, Parquet, or a folder that `datasets.load_dataset` opens.

The folder has a data card: where the rows come from, what was rejected, licences and cost.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

if TYPE_CHECKING:
    from kdtool_data.command.lookup import FoundText

_ROWS_AT_ONCE = 1_000
"""Rows that are written at once."""


def export(text: FoundText, target: Path, form: str, *, force: bool) -> int:
    """Write a complete text and return the number of its examples.

    Args:
        text: the text.
        target: a file for `jsonl` and `parquet` of a text with one split, else a folder.
        form: "jsonl", "parquet" or "dataset".
        force: replace what is there.

    Raises:
        UsageError: the target exists, or the text is not complete.
        StorageError: the target cannot be written.
    """
    if not text.is_complete:
        raise kdtool.UsageError(f"{text.folder} is not complete; finish it with kdtool run, or see kdtool data recover")
    if target.exists() and not force:
        raise kdtool.UsageError(f"{target} exists; choose another path, or replace it with --force")
    splits = text.splits()
    with writing(target) as made:
        if form == "dataset":
            files = {split: made / "data" / f"{split}-00000-of-00001.parquet" for split in splits}
        elif len(splits) == 1:
            files = {splits[0]: made}
        else:
            files = {split: made / f"{split}.{form}" for split in splits}
        if form == "jsonl":
            count = sum(write_lines(text.records(split), file) for split, file in files.items())
        else:
            fields = dict.fromkeys(chain.from_iterable(record for split in splits for record in text.records(split)))
            count = sum(_write_parquet(text.records(split), file, fields) for split, file in files.items())
        if form == "dataset":
            (made / "README.md").write_text(data_card(text, target.name), encoding="utf-8")
    return count


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Yield a path to write to, which replaces `target` at the end; after a failure `target` is unchanged.

    Raises:
        StorageError: it cannot be written.
    """
    made = target.with_name(f"{target.name}.new")
    try:
        _remove(made)
        made.parent.mkdir(parents=True, exist_ok=True)
        yield made
        _remove(target)
        made.replace(target)
    except OSError as error:
        with suppress(OSError):
            _remove(made)
        raise kdtool.StorageError(
            f"cannot write {target}: {error.strerror or error}; make room, or choose another place"
        ) from error


def write_lines(records: Iterable[Mapping[str, Any]], file: Path) -> int:
    """Write a line of JSON for each record, and return their number."""
    count = 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="\n") as opened:
        for record in records:
            opened.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(records: Iterator[Mapping[str, Any]], file: Path, fields: Iterable[str]) -> int:
    """Write batch after batch, so that memory use stays constant; all files of a text have the same fields."""
    import pyarrow as pa
    from pyarrow import parquet

    turn_type = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema([(name, pa.list_(turn_type) if name == "messages" else pa.string()) for name in fields])
    file.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(records, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def data_card(text: FoundText, name: str) -> str:
    """Return the card in Markdown, with the front matter of a dataset on the Hugging Face Hub."""
    counts = text.counts()
    documents = sum(split["documents"] for split in counts["splits"].values())
    return "\n".join(
        [
            "---",
            *_front_matter(text.splits(), counts, name, documents),
            "---",
            "",
            f"# {name}",
            "",
            f"{kdtool.count_of(documents, 'example')}, made by [kdtool](https://pypi.org/project/kdtool/).",
            "",
            *_card_table(
                "Split", {split: part["documents"] for split, part in counts["splits"].items() if part["documents"]}
            ),
            *_card_table("Language", counts["languages"]),
            *_card_table("Licence", counts["licences"]),
            *_card_table("Source", counts["sources"]),
            *_card_table("Rejected", _count_rejections(text, counts)),
            *_card_generations(text),
            "Fields: `id`, the text (`messages`, or `prompt` with `completion` and `rejected`, or `text`), `language`, "
            "`licence`, `source`, and `meta`, JSON text with further facts about the row.",
            "",
        ]
    )


def _front_matter(splits: list[str], counts: Mapping[str, Any], name: str, documents: int) -> Iterator[str]:
    licences = [licence for licence in counts["licences"] if licence != "unknown"]
    size = next((label for limit, label in _SIZES if documents < limit), "n>1M")
    yield f"pretty_name: {json.dumps(name)}"
    yield f"license: {json.dumps(licences[0].lower() if len(licences) == 1 else 'other')}"
    yield f"size_categories: [{json.dumps(size)}]"
    yield "task_categories: [text-generation]"
    yield "tags: [code, kdtool]"
    yield "configs:"
    yield "- config_name: default"
    yield "  data_files:"
    for split in splits:
        yield f"  - split: {split}"
        yield f"    path: data/{split}-*.parquet"


def _card_table(title: str, counts: Mapping[str, int]) -> Iterator[str]:
    if counts:
        yield from (f"| {title} | examples |", "|---|---|")
        yield from (f"| {str(name).replace('|', ' ')} | {count:,} |" for name, count in counts.items())
        yield ""


def _count_rejections(text: FoundText, counts: Mapping[str, Any]) -> dict[str, int]:
    rejections = Counter[str]()
    for filter_, reasons in counts["rejected"].items():
        rejections.update({f"{filter_.rpartition('.')[2]}: {why}": count for why, count in reasons.items()})
    for generation in text.generations():
        rejections.update(generation.rejections)
    return dict(rejections.most_common())


def _card_generations(text: FoundText) -> Iterator[str]:
    for generation in text.generations():
        total = generation.total
        yield (
            f"A teacher wrote {total('accepted'):,} of the rows in {total('asked'):,} requests: {total('tokens_in'):,} "
            f"tokens in, {total('tokens_out'):,} tokens out, ${total('picodollars') / 1e12:,.2f}."
        )
        yield ""
