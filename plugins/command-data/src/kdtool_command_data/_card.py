"""The data card of an exported text: where the rows come from, what was rejected, licences and cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtool_command_data._texts import FoundText

__all__ = ["data_card"]

_TOTALS = ("accepted", "asked", "tokens_in", "tokens_out", "picodollars")
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
            f"{documents:,} examples, made by [kdtool](https://pypi.org/project/kdtool/).",
            "",
            *_table(
                "Split", {split: part["documents"] for split, part in counts["splits"].items() if part["documents"]}
            ),
            *_table("Language", counts["languages"]),
            *_table("Licence", counts["licences"]),
            *_table("Source", counts["sources"]),
            *_table("Rejected", _count_rejections(text, counts)),
            *_generations(text),
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


def _table(title: str, counts: Mapping[str, int]) -> Iterator[str]:
    if counts:
        yield from (f"| {title} | examples |", "|---|---|")
        yield from (f"| {str(name).replace('|', ' ')} | {count:,} |" for name, count in counts.items())
        yield ""


def _count_rejections(text: FoundText, counts: Mapping[str, Any]) -> dict[str, int]:
    rejections = Counter[str]()
    for filter_, reasons in counts["rejected"].items():
        rejections.update({f"{filter_.rpartition('.')[2]}: {why}": count for why, count in reasons.items()})
    for generation in text.generations():
        for cell in generation.status["cells"]:
            rejections.update(cell["rejected"])
    return dict(rejections.most_common())


def _generations(text: FoundText) -> Iterator[str]:
    for generation in text.generations():
        total = {key: sum(cell[key] for cell in generation.status["cells"]) for key in _TOTALS}
        yield (
            f"A teacher wrote {total['accepted']:,} of the rows in {total['asked']:,} requests: {total['tokens_in']:,} "
            f"tokens in, {total['tokens_out']:,} tokens out, ${total['picodollars'] / 1e12:,.2f}."
        )
        yield ""
