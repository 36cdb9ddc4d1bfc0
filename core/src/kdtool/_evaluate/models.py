"""Models to measure: a model's folder, an exported file, or the student of a run with every seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdtool._errors import UsageError
from kdtool._plugins.registry import entries_by_name
from kdtool._results.files import find_run, read_results
from kdtool._results.model_cards import CARD
from kdtool._store.layout import GRAPH, MODEL, RESULTS
from kdtool._text.names import name_from


@dataclass(frozen=True)
class Model:
    """One model: `arm` is the name of all its seeds; `seed` and `run` are None for one from elsewhere.

    `run` is the folder of the run that trained it.
    """

    name: str
    arm: str
    path: Path
    seed: int | None = None
    run: Path | None = None

    def digest(self) -> str:
        """Return a hash of all its files except the card: another model in the same place is measured again."""
        found = hashlib.sha256()
        files = [self.path] if self.path.is_file() else sorted(path for path in self.path.rglob("*") if path.is_file())
        for path in (path for path in files if path != self.path / CARD):
            found.update(f"{path.relative_to(self.path).as_posix()}\0".encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        return found.hexdigest()


def models_of(given: Sequence[Path | str], out: Path) -> list[Model]:
    """Return the given models, each by itself or with all seeds of a run.

    Raises:
        UsageError: one is missing, or two have the same name.
    """
    groups = [list(_models(str(each), out)) for each in given]
    names = [name for models in groups for name in {name for model in models for name in (model.arm, model.name)}]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two models are called {twice[0]!r}: give them names, such as first={given[0]}")
    return [model for models in groups for model in models]


def is_model(path: Path) -> bool:
    """Return whether this is a file, or a folder other than a run's, which may be unfinished."""
    return path.is_file() or (path.is_dir() and not any((path / name).is_file() for name in (RESULTS, GRAPH)))


def _models(given: str, out: Path) -> Iterator[Model]:
    label, sign, text = given.partition("=")
    if not sign or Path(given).exists():
        label, text = "", given
    path = Path(text).absolute()
    if is_model(path):
        # Folders of a run that are named by the kind of their content.
        generic = {MODEL, *entries_by_name("exporter")}
        plain_name = path.parent.name if path.name in generic else path.name
        name = name_from(label or plain_name, "model", dots=True)
        yield Model(name, name, path)
        return
    folder = find_run(text, out, what="model, nor a finished run")
    students = [arm for arm in read_results(folder).arms if arm.arm == "student"]
    if not students:
        raise UsageError(f"the run {text!r} has trained no student; name a model's folder")
    name = name_from(label or folder.name, "model", dots=True)
    for arm in students:
        of_seed = f"{name}-seed{arm.seed}" if len(students) > 1 else name
        yield Model(of_seed, name, folder / arm.path, arm.seed, folder)
