"""`kdtool.evaluate`: measure models, compare them, and write a report."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import assemble
from kdtool._contract.evaluation import Subject
from kdtool._contract.reporting import Results
from kdtool._contract.run_info import RunInfo
from kdtool._errors import UsageError, resumable
from kdtool._evaluate.models import Model, models_of
from kdtool._evaluate.recipe import measuring_recipe
from kdtool._plugins.attribution import translate_errors
from kdtool._results.files import read_results, with_whole_paths
from kdtool._run.context import Context
from kdtool._run.execute import begin, results_of, session, write_report
from kdtool._run.graph import Graph
from kdtool._run.preflight.refusals import identify, refuse
from kdtool._run.stages.scores import Measured, add_scores, subjects_of
from kdtool._run.stages.text import StoredTexts
from kdtool._run.stages.texts import add_texts
from kdtool._store.shared_store import store_folder
from kdtool._text.names import NAME, VALID_NAME, name_from
from kdtool._text.terminal import print_line


@resumable()
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
    """Measure models and compare them with each other; a second call resumes where the first stopped.

    Args:
        models: model folders, exported files, and runs (folders, or names below `out`), for their students with all seeds;
            each may have a name in front: "base=path/to/model". None to measure only teachers.
        evaluators: names of evaluators; by default those of the recipe.
        settings: key paths to values, such as {"evaluators.perplexity.documents": 16, "corpus.folder": "src"}.
        corpus: the plugin that provides held-out text; by default the recipe's.
        recipe: a recipe file with text, teachers, evaluators' settings, trackers and reporter; by default that of the
            first run among the models.
        name: the name of the run and its folder; by default "eval" with the names of models and evaluators.
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
        raise UsageError(f"the run's name (`--name`) must be {VALID_NAME}, not {name!r}")
    chosen = models_of(models, Path(out))
    path = Path(recipe) if recipe is not None else None
    name = name or _own_name([model.arm for model in chosen], evaluators, [path and path.resolve(), corpus, settings])
    run = next((model.run for model in chosen if model.run), None)
    whole = path or (with_whole_paths(read_results(run)) if run else None)
    loaded = measuring_recipe(name, evaluators, settings or {}, corpus=corpus, recipe=whole)
    with assemble(loaded, print_line) as assembly:
        names = {name for model in chosen for name in (model.name, model.arm)}
        if taken := sorted(names & {*assembly.of_kind("teacher")}):
            raise UsageError(
                f"a model and a teacher of the recipe are called {taken[0]!r}; give the model another name, such as "
                f"my-{taken[0].rpartition('.')[2]}=FOLDER"
            )
        if not chosen and not assembly.of_kind("teacher"):
            raise UsageError(
                "nothing to measure: name a model's folder, an exported file or a run, or --set teacher.use=…"
            )
        named = assembly.of_kind("evaluator")
        others = {name for name in named if evaluators and name.rpartition(".")[2] not in evaluators}
        work, unused = partial(_measure, chosen, others), {*others, *assembly.of_kind("exporter")}
        folder = Path(out).absolute() / name
        return session(assembly, folder, store_folder(store), work, unused=unused, offline=offline)


def _own_name(arms: Sequence[str], evaluators: Sequence[str], rest: Sequence[object]) -> str:
    """Return a name for a run of these arms and evaluators; `rest` goes into it if there are no arms, or it is too long."""
    whole = "-".join(["eval", *dict.fromkeys([*arms, *evaluators])]).replace(".", "_")
    return whole if arms and NAME.fullmatch(whole) else name_from(whole, "eval", apart=repr(rest))


def _measure(models: Sequence[Model], others: Collection[str], context: Context, run: RunInfo) -> Results:
    """Measure models and the recipe's teachers, by all evaluators except `others`.

    Raises:
        UsageError: nothing was measured.
    """
    start = time.monotonic()
    identify(context, run)  # of other processes than the first, which `session` does not check
    graph = Graph()
    texts = add_texts(context, graph, context.assembly.recipe.shared)
    measured = [*map(_subject_of, models), *subjects_of(context, (), {}, {})]
    scores = add_scores(context, graph, measured, texts, but=others)
    begin(context, run, graph)
    context.make(texts)
    if not context.rank:
        refuse(context.assembly, context.info(texts=StoredTexts(texts.path)), "text", "evaluator", but=others)
    for node in graph.nodes.values():
        context.make(node)
    results = results_of(context, measured, scores, texts)
    unmeasured = {model.name for model in models} - {each.subject for each in results.measurements}
    notes = (*results.notes, *(f"nothing was measured of {name}" for name in sorted(unmeasured)))
    results = write_report(context, run, replace(results, notes=notes, seconds=time.monotonic() - start))
    if not results.measurements:
        raise UsageError(_NOTHING)
    return results


_NOTHING = (
    "nothing was measured: evaluators of text need a corpus (--corpus, or one from --recipe), those that compare with a "
    "teacher need one (--recipe, or --set teacher.use=…), and a model is a folder or file that some exporter writes"
)


def _subject_of(model: Model) -> Measured:
    subject = Subject(model.name, "artifact", model.path, model.seed, arm=model.arm)
    return Measured(model.name, model.name, model.arm, model.name, None, lambda: subject, content=model.digest())
