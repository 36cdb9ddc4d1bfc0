"""`kdtool.evaluate`: measure models, compare them, and write a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import assemble
from kdtool._contract.reporting import Results
from kdtool._errors import UsageError
from kdtool._evaluate.measure import measure
from kdtool._evaluate.models import models_of
from kdtool._evaluate.recipe import measuring_recipe
from kdtool._plugins.attribution import translate_errors
from kdtool._store.shared_store import store_folder
from kdtool._text.names import NAME, NO_NAME, name_from
from kdtool._text.terminal import print_line

__all__ = ["evaluate"]


@translate_errors()
def evaluate(
    models: Sequence[Path | str],
    evaluators: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    corpus: str | None = None,
    recipe: Path | str | None = None,
    name: str | None = None,
    out: Path | str = "runs",
    store: Path | str | None = None,
    offline: bool = False,
) -> Results:
    """Measure models and compare them with each other; a second call goes on where the first stopped.

    Args:
        models: model folders, exported files, runs (folders, or names below `out`) whose students are measured with all
            seeds; each may have a name in front: "base=path/to/model". None where teachers alone are measured.
        evaluators: what measures; by default what the recipe names.
        settings: key paths to values, such as {"evaluators.perplexity.documents": 16, "corpus.folder": "src"}.
        corpus: the plugin that gives held-out text; by default the recipe's.
        recipe: a recipe file from which text, teachers, evaluators' settings, trackers and reporter are taken.
        name: the run's name, and that of its folder; by default "eval" with the names of models and evaluators.
        out: the folder for runs.
        store: the folder for what runs share.
        offline: use no network.

    Raises:
        KdtoolError: see `kdtool._errors`; nothing could be measured, or a model is not there.

    Example:
        results = kdtool.evaluate(["small", "large"], ["perplexity"], corpus="python-source")
        print(results.verdict)
    """
    if name and not NAME.fullmatch(name):
        raise UsageError(f"the run's name {name!r} {NO_NAME}; give another (`--name`), or none")
    found = models_of(models, Path(out))
    path = Path(recipe) if recipe is not None else None
    name = name or _own_name([model.arm for model in found], evaluators, [path and path.resolve(), corpus, settings])
    loaded = measuring_recipe(name, evaluators, settings or {}, corpus=corpus, recipe=path)
    with assemble(loaded, print_line) as assembly:
        if not found and not assembly.named("teacher"):
            raise UsageError(
                "nothing to measure: name a model's folder, an exported file or a run, or --set teacher.use=…"
            )
        folder = Path(out).absolute() / loaded.name
        return measure(assembly, found, evaluators, folder, store_folder(store), offline=offline)


def _own_name(arms: Sequence[str], evaluators: Sequence[str], rest: Sequence[object]) -> str:
    """Return a name that other models or evaluators do not get; `rest` counts where no model is named, or it is too long."""
    whole = "-".join(["eval", *dict.fromkeys([*arms, *evaluators])]).replace(".", "_")
    return whole if arms and NAME.fullmatch(whole) else name_from(whole, "eval", apart=repr(rest))
