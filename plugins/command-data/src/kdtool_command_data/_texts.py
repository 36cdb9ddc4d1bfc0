"""Find training text: the text artefact of a recipe, complete or unfinished, or that of a finished run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kdtool

from kdtool_command_data._results import read_results

__all__ = ["FoundText", "Generated", "find_text"]

_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Generated:
    """The record of a corpus that generates rows, in a folder of the text: `status` as plain data."""

    folder: Path
    status: Mapping[str, Any]

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the lines of `rows.jsonl` or `rejected.jsonl`; a last line that is not finished is left out."""
        path = self.folder / name
        if path.exists():
            with path.open("rb") as file:
                yield from (json.loads(line) for line in file if line.endswith(b"\n"))


@dataclass(frozen=True)
class FoundText:
    """The text of a recipe: its folder, and whether it is complete."""

    name: str
    folder: Path
    is_complete: bool

    @property
    def answers(self) -> Path:
        """The store's file of answers, including paid ones."""
        return self.folder.parents[1] / "answers.sqlite"

    def splits(self) -> list[str]:
        """Return the splits that hold examples."""
        return [split for split in _SPLITS if (self.folder / f"{split}.jsonl").stat().st_size]

    def records(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield the examples of a split as flat records: see `record_of`."""
        with (self.folder / f"{split}.jsonl").open(encoding="utf-8") as file:
            yield from (record_of(json.loads(line)) for line in file)

    def counts(self) -> dict[str, Any]:
        """Return the counts of documents, languages, licences, sources and rejections."""
        counts: dict[str, Any] = json.loads((self.folder / "counts.json").read_text(encoding="utf-8"))
        return counts

    def generations(self) -> list[Generated]:
        """Return the records of its generations."""
        files = sorted(self.folder.glob("*/*/status.json"))
        return [Generated(file.parent, json.loads(file.read_text(encoding="utf-8"))) for file in files]


def find_text(source: Path, settings: Mapping[str, str], store: Path | None, name: str | None) -> FoundText:
    """Return the text of a recipe or of a finished run.

    Args:
        source: a recipe's file, or the folder of a finished run.
        settings: overrides of the recipe.
        store: the folder shared by runs; None for the user's.
        name: name of the text, if phases have separate ones; None if there is only one.

    Raises:
        UsageError: there are several texts, or none has been begun.
    """
    paths = _texts_of_run(source) if source.is_dir() else _texts_of_recipe(source, settings, store)
    if name is None and len(paths) > 1:
        raise kdtool.UsageError(f"{source} has several texts; choose with --text: {', '.join(paths)}")
    chosen = name or next(iter(paths), "")
    if chosen not in paths:
        raise kdtool.UsageError(f"{source} has no text called {chosen!r}; there are: {', '.join(paths) or 'none'}")
    folder = paths[chosen]
    unfinished = folder.with_name(f"{folder.name}.partial")
    if not folder.is_dir() and not unfinished.is_dir():
        raise kdtool.UsageError(f"the text of {source} is not begun yet; make it with: kdtool run {source}")
    return FoundText(chosen, folder if folder.is_dir() else unfinished, folder.is_dir())


def record_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat record: `id`, the text as `messages`, `prompt` and `completion`, or `text`, and facts about it.

    `meta` is JSON text, since its keys differ from example to example.
    """
    body = {key: line[key] for key in ("text", "prompt", "completion", "rejected") if key in line}
    if "turns" in line:
        body = {"messages": [{"role": role, "content": content} for role, content in line["turns"]]}
    about = {key: line.get(key, "") for key in ("language", "licence", "source")}
    return {"id": line["id"], **body, **about, "meta": json.dumps(line.get("meta", {}), ensure_ascii=False)}


def _texts_of_recipe(recipe: Path, settings: Mapping[str, str], store: Path | None) -> dict[str, Path]:
    stages = kdtool.plan(recipe, settings, store=store)
    return {stage.name: stage.path for stage in stages if stage.name.partition("/")[0] == "text"}


def _texts_of_run(folder: Path) -> dict[str, Path]:
    _, stages = read_results(folder)
    return {stage.name: stage.path for stage in stages if stage.name.partition("/")[0] == "text"}
