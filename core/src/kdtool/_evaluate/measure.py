"""The run that only measures: text, scores of every model, comparison of all pairs, report."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from kdtool._assembly.assemble import Assembly
from kdtool._contract.evaluation import Subject
from kdtool._contract.reporting import Results
from kdtool._contract.run_info import RunInfo
from kdtool._errors import UsageError
from kdtool._evaluate.models import Model
from kdtool._results.compare_arms import compare_all
from kdtool._results.files import component_record, environment
from kdtool._results.verdict import side_by_side
from kdtool._run.context import Context
from kdtool._run.execute import keep, reported, session
from kdtool._run.graph import Graph
from kdtool._run.preflight.component_checks import refuse_missing, refuse_unmeasurable
from kdtool._run.stages.rows import add_texts, corpora_of
from kdtool._run.stages.scores import Measured, add_scores, read_scores, said_of, subjects_of
from kdtool._run.stages.text import StoredTexts

__all__ = ["measure"]


def measure(
    assembly: Assembly,
    models: Sequence[Model],
    evaluators: Collection[str],
    folder: Path,
    store: Path,
    *,
    offline: bool,
) -> Results:
    """Measure models as an assembly without training says; other arguments and errors are those of `kdtool._run.execute`.

    Args:
        assembly: of the recipe that only measures.
        models: who is measured beside the recipe's teachers.
        evaluators: what measures, by name; empty for all evaluators of the recipe.
        folder: the run's.
        store: what runs share.
        offline: use no network.
    """
    return session(assembly, folder, store, partial(_measure, models, evaluators), offline=offline)


def _measure(models: Sequence[Model], evaluators: Collection[str], context: Context, run: RunInfo) -> Results:
    start = time.monotonic()
    named = context.assembly.named("evaluator")
    only_asked = {name for name in named if evaluators and name.rpartition(".")[2] not in evaluators}
    stand_by = context.assembly.named("exporter")
    refuse_missing(context.assembly, run, but={*only_asked, *stand_by})
    context.identities.update(context.hooks.kdtool_identity(run))
    graph = Graph()
    texts = add_texts(context, graph, context.assembly.recipe.shared)
    measured = [*map(_measured, models), *subjects_of(context, (), {})]
    scores = add_scores(context, graph, measured, texts, but=only_asked)
    keep(context, graph)
    context.make(texts)
    refuse_unmeasurable(context, texts, but=only_asked)
    for node in graph.nodes.values():
        context.make(node)
    found = list(chain.from_iterable(read_scores(context, scores).values()))
    subjects = tuple(one.subject() for one in measured)
    comparisons, notes = compare_all(found, subjects, {one.name: one.arm for one in measured})
    unmeasured = {model.name for model in models} - {each.subject for each in found}
    notes += said_of(context, chain.from_iterable(scores.values()))
    notes += [f"nothing was measured of {name}" for name in sorted(unmeasured)]
    results = Results(
        name=context.assembly.recipe.name, folder=context.folder, verdict=side_by_side(comparisons),
        measurements=tuple(found), comparisons=tuple(comparisons), arms=(), stages=tuple(context.stages),
        components=tuple(component_record(built) for built in context.assembly.built.values()), models={},
        data=StoredTexts(texts.path).counts(corpora_of(context, context.assembly.recipe.shared)),
        recipe=context.assembly.recipe.data, recipe_text="", environment=environment(),
        seconds=time.monotonic() - start, notes=tuple(notes), subjects=subjects,
    )  # fmt: skip
    results = reported(context, run, results)
    if not found:
        raise UsageError(f"nothing was measured: {_REMEDY}")
    return results


_REMEDY = (
    "evaluators that score text need a corpus (--corpus, or one from --recipe), those that compare with a teacher need one "
    "(--recipe, or --set teacher.use=…), and a model is a folder or file that an installed exporter can write"
)


def _measured(model: Model) -> Measured:
    subject = Subject(model.name, "artifact", model.path, model.seed, arm=model.arm)
    return Measured(model.name, model.arm, None, lambda: subject, content=model.digest())
