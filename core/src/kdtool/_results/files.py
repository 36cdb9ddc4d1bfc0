"""Files of a run: its record `results.json`, its events, exported models under `exports/NAME`, and model cards.

The record is written at the end, and read again by other commands. Others may see it, so its places are relative to the run,
with `store:` for the store and `~` for the home. Only `graph.json` holds the store's path on this machine; no tracker or
report reads it. `events.jsonl` is written by every run: a line at once and whole, so that a killed process loses at most the
one that it was writing.

`exports/NAME` are hard links, without fingerprints in their paths. A model card is README.md in an artefact's folder, or
next to its file. It does not belong to the artefact: measuring comes later, and another evaluator changes the card and not
the model.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from io import FileIO
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from kdtool._assembly.built import Built
from kdtool._contract.evaluation import Artifact
from kdtool._contract.reporting import ComponentRecord, Results, export_link
from kdtool._contract.run_info import RunInfo
from kdtool._errors import StorageError, UsageError, cause_of
from kdtool._plugins.hook_specs import PREFIX
from kdtool._store.files import append_line, open_to_append, read_json, read_sealed, write_beside, write_sealed
from kdtool._store.shared import EVENTS, GRAPH, RESULTS
from kdtool._text.names import did_you_mean

PLAIN: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="strings"))
"""Writes infinite numbers as "Infinity", which is read as that number again; JSON has none."""
_ADAPTER: TypeAdapter[Results] = TypeAdapter(Results)
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "pluggy", "pydantic")


def write_results(results: Results) -> Path:
    """Write `results.json` into the run's folder, with places as in `Places`."""
    path = results.folder / RESULTS
    plain = Places.of(results.folder).hide(_ADAPTER.dump_python(results))
    write_sealed(path, PLAIN.dump_json(plain, indent=1).decode())
    return path


def find_run(run: Path | str, out: Path | str, what: str = "finished run", given: Sequence[Path | str] = ()) -> Path:
    """Return the folder of a finished run, given as a folder or by its name below `out`.

    Raises:
        UsageError: the run does not exist; the message calls it `what`, and lists the runs that do. For a folder it has the
            command that measures it, with all that are `given`.
    """
    for folder in (Path(run), Path(out, run)):
        if (folder / RESULTS).is_file():
            return folder.absolute()
        if (folder / GRAPH).is_file():
            raise UsageError(f"the run {str(run)!r} is not finished; run its recipe again to finish it")
    if Path(run).exists():
        models = shlex.join(dict.fromkeys(map(str, given or [run])))
        raise UsageError(
            f"{str(run)!r} is not a {what}; to measure and compare models: kdtool eval {models} --with NAME"
        )
    marked = (path for depth in ("*", "*/*") for path in Path(out).glob(f"{depth}/{RESULTS}"))
    names = {path.parent.relative_to(out).as_posix() for path in marked}
    hint = did_you_mean(str(run), names, what="there are") or "none is finished there"
    raise UsageError(f"{str(run)!r} is not a {what}: neither a folder nor the name of a run in {out}; {hint}")


def with_whole_paths(results: Results) -> Results:
    """Return results that were read with absolute paths."""
    plain = map_paths(_ADAPTER.dump_python(results), lambda path: results.folder / path)
    for before, after in zip(results.arms, plain["arms"], strict=True):
        for made, found in zip(before.artifacts, after["artifacts"], strict=True):
            found["how_to_use"] = made.how_to_use.replace(str(made.path), str(found["path"]))
    return _ADAPTER.validate_python(plain)


def read_results(folder: Path) -> Results:
    """Read a run's results; paths below its folder are relative to it.

    Raises:
        UsageError: the folder holds no finished run.
        StorageError: the file is damaged.
    """
    path = folder / RESULTS
    remedy = "Run the recipe again to rewrite it; finished work is reused"
    try:
        results = _ADAPTER.validate_json(read_sealed(path, remedy))
        plain = map_paths(_ADAPTER.dump_python(results), Places.of(folder).find)
        results = replace(_ADAPTER.validate_python(plain), folder=folder)
    except FileNotFoundError as error:
        raise UsageError(f"{folder} holds no finished run: it lacks {RESULTS}") from error
    except ValidationError as error:
        raise StorageError(f"{path} has {error.error_count()} entries that are not as written. {remedy}") from error
    unknown = {measurement.subject for measurement in results.measurements} - {each.name for each in results.subjects}
    if unknown:
        raise StorageError(f"{path} names {min(unknown)!r}, expected one of its subjects. {remedy}")
    return results


def component_record(built: Built) -> ComponentRecord:
    """Return the record of a component; its config includes defaults."""
    owner, config = built.owner, built.written.model_dump(mode="json")
    source = built.loaded.source
    use = f"{source}:{owner.use.rpartition(':')[2]}" if source else owner.use
    return ComponentRecord(owner.name, owner.kind, use, owner.distribution, owner.version, config)


def environment() -> Mapping[str, str]:
    """Return the surroundings that a run's numbers depend on: Python, system, processor, libraries."""
    versions = {
        "kdtool": version("kdtool"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": str(os.cpu_count() or ""),
    }
    for library in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return versions


def map_paths(value: Any, change: Callable[[Path], object]) -> Any:
    """Return plain data in which each path is replaced by `change` of it."""
    if isinstance(value, Path):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_paths(item, change) for key, item in value.items()}
    return [map_paths(item, change) for item in value] if isinstance(value, list | tuple) else value


_STORE, _HOME = "store:", "~"
_AS_WRITTEN = frozenset({"texts"})
"""Keys of texts of models and corpora, in which nothing is changed."""


class Places:
    """The folder of a run, its store, None if that is unknown, and the user's home."""

    def __init__(self, folder: Path, store: Path | None) -> None:
        self.folder = folder
        self.store = store
        marks = {str(folder): "."}
        with suppress(RuntimeError):  # no home
            marks.setdefault(str(Path.home()), _HOME)
        if store is not None:
            marks.setdefault(str(store), _STORE)
        self._marks = {path: mark for path, mark in marks.items() if len(Path(path).parts) > 1}
        longest = "|".join(re.escape(path) for path in sorted(self._marks, key=len, reverse=True))
        self._found = re.compile(rf"(?<![\w/\\.~-])({longest})(?![\w.-])([/\\]?)") if longest else None

    @classmethod
    def of(cls, folder: Path) -> Places:
        """Return the places of the run in `folder`, as its graph names them."""
        store = None
        with suppress(OSError, StorageError):
            store = Path(read_json(folder / GRAPH, dict, store=str)["store"])
        return cls(folder, store)

    def hide(self, value: Any) -> Any:
        """Return plain data in which paths and text name no folder of this machine."""
        if isinstance(value, Mapping):
            return {key: item if key in _AS_WRITTEN else self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        if isinstance(value, Path):
            return self.hide(str(value)).replace(os.sep, "/")
        return self._found.sub(self._mark, value) if isinstance(value, str) and self._found else value

    def _mark(self, found: re.Match[str]) -> str:
        mark = self._marks[found[1]]
        return "" if mark == "." and found[2] else mark + found[2]

    def find(self, path: Path) -> Path:
        """Return a path that `hide` has written, absolute where it is not below the run's folder."""
        if path.parts[:1] == (_STORE,) and self.store is not None:
            return self.store.joinpath(*path.parts[1:])
        return path.expanduser() if path.parts[:1] == (_HOME,) else path


def link_export(artifact: Artifact, folder: Path) -> None:
    """Link an exported model of the run in `folder`; leave none on a disk that has no hard links."""
    link = export_link(artifact, folder)
    if link == artifact.path:
        return
    aside = link.with_name(f"{link.name}.linking")
    for old in (aside, link):
        shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):
        link.unlink(missing_ok=True)
        if artifact.path.is_dir():
            shutil.copytree(artifact.path, aside, copy_function=os.link)
            aside.rename(link)
        else:
            os.link(artifact.path, link)
    shutil.rmtree(aside, ignore_errors=True)


CARD = "README.md"
"""The name that hubs look for."""


def card_of(artifact: Artifact) -> Path:
    """Return where an artefact's card is: in its folder, or next to its file."""
    return (artifact.path if artifact.path.is_dir() else artifact.path.parent) / CARD


def write_card(artifact: Artifact, text: str | None = None) -> None:
    """Write the card of an artefact that has one, as the exporter wrote it or completed as `text`."""
    if artifact.card:
        write_beside(card_of(artifact), (text or artifact.card).rstrip("\n") + "\n")


class EventLog:
    """Appends events to `events.jsonl` in `folder`.

    Events that cannot be written are left out, with one line to `complain`; the run continues. `recipe` goes into the line
    of `run_start`. Places are written as in `Places`.
    """

    def __init__(
        self, folder: Path, recipe: Mapping[str, Any], complain: Callable[[str], None], store: Path | None = None
    ) -> None:
        self._path = folder / EVENTS
        self._places = Places(folder, store)
        self._recipe = recipe
        self._complain = complain
        self._file: FileIO | None = None
        self._failed = False

    def write(self, hook: str, values: Mapping[str, Any]) -> None:
        """Append the call of a tracker's hook; `values` are its arguments by name."""
        try:
            self._append(self._line(hook, values))
        except Exception as error:
            if not self._failed:
                self._failed = True
                self._complain(
                    f"{self._path} lacks events of this run: {cause_of(error)}; the run continues. Make room or the file "
                    "writable; later events are then written again"
                )

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _line(self, hook: str, values: Mapping[str, Any]) -> bytes:
        run: RunInfo = values["run"]
        line = {
            "event": hook.removeprefix(PREFIX),
            "time": datetime.fromtimestamp(run.time, UTC).isoformat(timespec="milliseconds"),
            **{key: getattr(run, key) for key in _PLACE},
            **{name: value for name, value in values.items() if name != "run"},
        }
        if hook == "kdtool_run_start":
            line["recipe"] = self._recipe
        text = json.dumps(to_jsonable_python(line, fallback=_plain))
        plain = self._places.hide(json.loads(text, parse_constant=str))  # "NaN" for NaN, which JSON does not have
        return json.dumps(plain, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"  # halves of surrogates

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._file = open_to_append(self._path)
        append_line(self._file, line)


def _plain(value: object) -> object:
    """Return a mapping other than a dict as one, and anything else that JSON does not have as text."""
    return dict(value) if isinstance(value, Mapping) else str(value)


_PLACE = ("stage", "label", "stage_title", "phase", "arm", "seed")
"""Fields of `RunInfo` in each event."""
