"""Signals and training text of a recipe or of a finished run, found on disk: complete, unfinished or missing."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kdtool


def read_results(folder: Path) -> tuple[Mapping[str, Any], Sequence[kdtool.StageRecord]]:
    """Return the recipe and the stages of a finished run, with absolute paths.

    Raises:
        UsageError: the folder holds no finished run.
        StorageError: its results cannot be read.
    """
    try:
        results = kdtool.load(folder)
    except kdtool.UsageError as error:
        raise kdtool.UsageError(f"{folder} holds no finished run; name its recipe instead") from error
    except kdtool.StorageError as error:
        raise kdtool.StorageError(f"{error}; or name the recipe instead") from error
    return results.recipe, results.stages


_SIGNALS = "signals/"
_BESIDE = "without a cache or a loss that uses the teacher, the teacher runs with the student"


def find_signals(
    source: Path, settings: Mapping[str, str], store: Path | str | None, name: str | None
) -> tuple[str, kdtool.RecordedSignals]:
    """Return the name of the signals and where they are recorded, perhaps incompletely.

    Args:
        source: a recipe's file, or the folder of a finished run.
        settings: overrides of the recipe.
        store: the folder shared by runs; None for the run's own, or the user's.
        name: name of the signals, with or without the prefix `signals/`; None if there is only one.

    Raises:
        UsageError: the recipe records none, they are not recorded yet, or several match.
    """
    recipe: Path | Mapping[str, Any] = source
    if source.is_dir():
        recipe, made = read_results(source)
        store = store or next((stage.path.parents[1] for stage in made if stage.name.startswith(_SIGNALS)), None)
    stages = kdtool.plan(recipe, settings, store=store)
    recorded = {stage.name: stage.signals for stage in stages if stage.signals is not None}
    if not recorded:
        raise kdtool.UsageError(
            f"{source} records no signals: {_BESIDE}; set `signals: {{use: states}}` to record them"
        )
    wanted = [known for known in recorded if name in {known, known.removeprefix(_SIGNALS)}]
    if not wanted and (name is not None or len(recorded) > 1):
        problem = "several signals" if name is None else f"no signals called {name!r}"
        raise kdtool.UsageError(f"{source} records {problem}; choose with --signals: {', '.join(recorded)}")
    chosen = wanted[0] if wanted else next(iter(recorded))
    if not recorded[chosen].folder.is_dir():
        words = [
            "kdtool",
            "run",
            str(source),
            *(word for pair in settings.items() for word in ("--set", "=".join(pair))),
        ]
        words += ["--store", str(store)] if store is not None else []
        how = "run its recipe again" if source.is_dir() else f"record them with: {shlex.join(words)}"
        raise kdtool.UsageError(f"{chosen} of {source} is not recorded yet; {how}")
    return chosen, recorded[chosen]


_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Generated:
    """The record of a corpus that generates rows, in a folder of the text: `status` as plain data."""

    folder: Path
    status: Mapping[str, Any]

    def total(self, key: str) -> int:
        """Return the sum of a count over all cells."""
        return sum(cell[key] for cell in self.status["cells"])

    @property
    def rejections(self) -> Counter[str]:
        """Rejected candidates of all cells, by reason."""
        return sum((Counter(cell["rejected"]) for cell in self.status["cells"]), Counter[str]())

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


def find_text(source: Path, settings: Mapping[str, str], store: Path | str | None, name: str | None) -> FoundText:
    """Return the text of a recipe or of a finished run.

    Args:
        source: a recipe's file, or the folder of a finished run.
        settings: overrides of the recipe.
        store: the folder shared by runs; None for the user's.
        name: name of the text, if phases have separate ones; None if there is only one.

    Raises:
        UsageError: there are several texts, or none has been begun.
    """
    stages = read_results(source)[1] if source.is_dir() else kdtool.plan(source, settings, store=store)
    paths = {stage.name: stage.path for stage in stages if stage.name.partition("/")[0] == "text"}
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
