"""`kdtool.open_models`: the models of a finished run, or one model, opened for use instead of measurement."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from kdtool._assembly.assemble import assemble
from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import Runtime
from kdtool._contract.reporting import Results
from kdtool._contract.run_info import RunInfo
from kdtool._errors import UsageError
from kdtool._evaluate.models import is_model, models_of
from kdtool._evaluate.recipe import opening_recipe
from kdtool._plugins.attribution import translate_errors
from kdtool._results.files import find_run, read_results, with_whole_paths
from kdtool._run.context import Context
from kdtool._run.open_subject import UNADAPTED, open_subject
from kdtool._store.shared_store import store_folder
from kdtool._text.did_you_mean import did_you_mean
from kdtool._text.terminal import print_line

__all__ = ["Models", "open_models"]

_ORDER = ("student", "artifact", "control", "base", "reference", "teacher")


class Models:
    """Models by name, none of them loaded; `open` loads one. `results` are the run's, None if they are of no run.

    `subjects` begin with the student, or the only model; exported files, controls, the student before its training, the
    reference and teachers follow. A teacher that the run trained is opened as it was before.
    """

    def __init__(self, subjects: Mapping[str, Subject], run: RunInfo, results: Results | None) -> None:
        self.subjects = subjects
        self.results = results
        self._run = run

    def open(self, name: str) -> Runtime:
        """Open a model, with its weights; the caller closes it.

        Raises:
            UsageError: there is no such model, or no installed plugin opens it.
        """
        if name not in self.subjects:
            raise UsageError(f"there is no model {name!r} here; {did_you_mean(name, self.subjects, what='there are')}")
        subject = self.subjects[name]
        asked = subject.role in ("teacher", "reference")
        given = subject if asked else replace(subject, role="artifact")  # as `kdtool eval` opens it
        opened = open_subject(self._run, given)
        if opened is None:
            raise UsageError(
                f"no installed plugin opens {subject.path or name}: name a folder with a model of transformers and its "
                "tokenizer, or a file of an installed exporter (`kdtool plugins exporter` lists them)"
            )
        return opened.value


@contextmanager
def open_models(model: Path | str, *, out: Path | str = "runs", offline: bool = False) -> Iterator[Models]:
    """Give the models of a finished run, with its teachers, or the model in a folder or file.

    Args:
        model: a run (its folder, or its name below `out`), a model's folder, or an exported file.
        out: the folder for runs.
        offline: use no network.

    Raises:
        UsageError: there is no such model or run, or the run is not finished.
        RecipeError: a plugin of the run's teachers is not installed.

    Example:
        with kdtool.open_models("quickstart") as models, models.open("student") as student:
            for piece in student.stream(kdtool.Request("1", "def area(", max_tokens=64)):
                print(piece.text, end="")
    """
    with translate_errors():
        results, subjects = _find(model, Path(out))
        recipe = opening_recipe(results.name if results else "models", results.recipe if results else {})
        with assemble(recipe, print_line) as assembly, tempfile.TemporaryDirectory(prefix="kdtool-") as scratch:
            run = Context.of(assembly, Path(scratch), store_folder(None), offline=offline).info()
            yield Models(subjects, run, results)


def _find(model: Path | str, out: Path) -> tuple[Results | None, Mapping[str, Subject]]:
    path = Path(model)
    if is_model(path):
        return None, {model.name: Subject(model.name, "artifact", model.path) for model in models_of([path], out)}
    results = with_whole_paths(read_results(find_run(model, out, what="model, nor a finished run")))
    artifacts = {artifact.path: artifact for arm in results.arms for artifact in arm.artifacts}
    by_name: dict[str, Subject] = {}
    for subject in sorted(results.subjects, key=lambda each: _ORDER.index(each.role)):
        artifact = artifacts.get(subject.path) if subject.path else None
        if not subject.name.endswith(UNADAPTED):
            link = replace(subject, path=results.path_of(artifact)) if artifact else subject
            by_name[subject.name] = link
    return results, by_name
