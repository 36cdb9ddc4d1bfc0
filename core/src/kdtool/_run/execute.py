"""A run, from an assembled recipe to results.

The nodes of the graph are made in order, each reused unless something that it depends on has changed. Then the arms are
compared and reported. Text, untrained students, rows, signals, scores of teachers, and controls at equal tokens
(unless there is one at equal time) are in the store that runs share.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.requirements import checked_against
from kdtool._contract.evaluation import Measurement
from kdtool._contract.licences import licence_lines
from kdtool._contract.reporting import Exporter, Reporter, Results, StageRecord
from kdtool._contract.run_info import RunInfo
from kdtool._errors import PluginError, StorageError, cause_of, is_interrupt
from kdtool._plugins.hooks import owner_of, translate_errors
from kdtool._results.comparisons import arm_values, compare_all, side_by_side, verdict
from kdtool._results.files import (
    EventLog,
    card_of,
    component_record,
    environment,
    link_export,
    read_results,
    write_card,
    write_results,
)
from kdtool._run.comparability import describe_on_policy, describe_vocabularies, on_policy_keys, refuse_uneven_arms
from kdtool._run.context import Context, refuse_executor, refuse_network
from kdtool._run.dispatch import Needs, make_all
from kdtool._run.graph import Graph, Node
from kdtool._run.plan import RunGraph, check_and_build_graph
from kdtool._run.preflight import licences_of, preflight, refuse, refuse_empty_text, unwritable
from kdtool._run.ranks import agree
from kdtool._run.stages.data import corpora_of, rows_of
from kdtool._run.stages.scores import Measured, messages_of, read_artifact, read_scores
from kdtool._run.stages.students import facts_of
from kdtool._run.stages.terms import describe_mixtures
from kdtool._run.stages.text import StoredTexts
from kdtool._store.artefacts import verify
from kdtool._store.files import write_sealed
from kdtool._store.shared import GRAPH, MODEL, register_run, run_lock
from kdtool._text.terminal import end_first_line


@translate_errors()
def execute(
    assembly: Assembly,
    folder: Path,
    store: Path,
    *,
    offline: bool = False,
    recipe_text: str = "",
    needs: Needs | None = None,
) -> Results:
    """Run an assembled recipe.

    Args:
        assembly: the recipe with its plugins.
        folder: the run's own folder; locked during the run.
        store: the folder that runs share.
        offline: refuse to use a network.
        recipe_text: the recipe as the user wrote it, for the report.
        needs: returns the memory of each stage, for an executor.

    Raises:
        KdtoolError: see `kdtool._errors`. Finished stages are kept, and the same call resumes there.

    Under torchrun every process calls this: rank 0 does the run, the others train with it and return the same results.
    """
    if assembly.of_kind("executor"):
        refuse_executor(store)
    work = partial(_run, recipe_text, needs)
    return session(assembly, folder, store, work, offline=offline, licensed=True)


def session(
    assembly: Assembly,
    folder: Path,
    store: Path,
    work: Callable[[Context, RunInfo], Results],
    *,
    unused: Collection[str] = (),
    offline: bool,
    licensed: bool = False,
) -> Results:
    """Do the work of a run in its folder: locked, registered in the store, shown by the trackers.

    Of several processes only the first does so, after it has checked folders, keys and the components except the `unused`
    ones. No tracker sees the refusals of these checks. If it is `licensed`, licences are judged and recorded.
    """
    if offline:
        refuse_network(store)
    context = Context.of(assembly, folder, store, offline=offline)
    if context.rank:
        context.licences = licences_of(assembly) if licensed else ()
        return work(context, context.info())
    for line in unwritable(folder, store):
        raise StorageError(line)
    preflight(context, context.info(), licensed=licensed, but=unused)
    run = context.info()
    with run_lock(folder) as context.leader, context.store.remote.run(run.name, folder):
        register_run(store, folder)
        assembly.events.begin(run, EventLog(folder, assembly.recipe.data, assembly.complain, store))
        if not assembly.shows_messages():
            end_first_line(f"running {run.name} …")
        try:
            results = work(context, run)
        except BaseException as error:
            outcome = "interrupted" if is_interrupt(error) else "failed"
            try:
                context.hooks.kdtool_run_end(run, outcome, None)
            except Exception as other:  # of a required tracker: shown, and must not hide the first error
                assembly.complain(f"{owner_of(other)} failed in kdtool_run_end: {cause_of(other)}")
            assembly.events.finish(interrupted=outcome == "interrupted")
            raise
        context.hooks.kdtool_run_end(run, "done", results.report)
        assembly.events.finish()
        return results


def _run(recipe_text: str, needs: Needs | None, context: Context, run: RunInfo) -> Results:
    start = time.monotonic()
    run_graph = check_and_build_graph(context)
    begin(context, run, run_graph.graph)
    for line in _recipe_notes(context):
        context.say(line)
    with closing(make_all(context, run_graph, needs)) as made:
        for node in made:
            _check_node(context, run_graph, node)
    results = results_of(context, run_graph.measured, run_graph.scores, run_graph.texts)
    results = _with_training(context, run_graph, results)
    results = replace(results, recipe_text=recipe_text, seconds=time.monotonic() - start)
    if context.rank:
        return results
    results = write_report(context, run, results)
    for name, artifact in zip(context.assembly.of_kind("exporter"), results.arms[0].artifacts, strict=True):
        write_card(artifact, context.hooks.component(name, Exporter).kdtool_card(run, artifact, results))
    for artifact in results.arms[0].artifacts:
        link_export(artifact, context.folder)  # again, with its whole card
    return results


def _check_node(context: Context, run_graph: RunGraph, node: Node) -> None:
    """Have components check what a made node holds, before more is made from it; show exports at once."""
    if context.rank:
        return
    if node is run_graph.texts:
        if not all(student.exists for student in run_graph.students.values()):
            refuse_empty_text(context, node)
        refuse(context.assembly, context.info(texts=StoredTexts(node.path)), "text", "evaluator")
    written = {name for name, export in run_graph.exports.items() if export.exists}
    if node is next(iter(run_graph.students.values())) and len(written) < len(run_graph.exports):
        verify(node.path)
        untrained = replace(context.info(), untrained=node.path / MODEL)
        refuse(context.assembly, untrained, "student", "exporter", but=written)
    if node in run_graph.exports.values():
        artifact = read_artifact(node)
        if not card_of(artifact).exists():  # its licence is there before it is measured
            write_card(artifact)
        link_export(artifact, context.folder)
    refuse_uneven_arms(context.assembly, run_graph.arms, node)


def write_report(context: Context, run: RunInfo, results: Results) -> Results:
    """Write `results.json` and call the reporters; return the results with the report's path.

    The results are there also where a reporter fails.
    """
    results = replace(
        results, measurements=tuple(_copy_items(context, measurement) for measurement in results.measurements)
    )
    write_results(results)
    for name in context.assembly.of_kind("reporter"):
        shown = read_results(context.folder)  # as `kdtool report` passes them, without places of this machine
        results = replace(results, report=context.hooks.component(name, Reporter).kdtool_report(run, shown))
        if results.report is None or not results.report.exists():
            raise PluginError(f"{context.hooks.owner(name)} returned a path that does not exist: {results.report}")
        write_results(results)
    return results


def _copy_items(context: Context, found: Measurement) -> Measurement:
    """Copy items from the store into the run's folder, which can then be moved and compared elsewhere."""
    if found.items is None or found.items.is_relative_to(context.folder):
        return found
    own = context.folder / found.items.relative_to(context.store.root)
    own.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return replace(found, items=Path(shutil.copy(found.items, own)))


def begin(context: Context, run: RunInfo, graph: Graph) -> None:
    """Write the graph for `clean`, later plans and other processes, which compare theirs, and tell the trackers."""
    if context.rank:
        context.leader = agree(context.folder, graph, context.rank)
        return
    record = graph.record(context.assembly.recipe.name, context.store.root)
    write_sealed(context.folder / GRAPH, {**record, "by": (context.leader or {}).get("id")})
    if context.assembly.shows_messages():
        end_first_line()
    context.hooks.kdtool_run_start(run, tuple(map(_stage_record, graph.nodes.values())))
    for line in licence_lines(context.licences, context.assembly.recipe.name):
        context.say(line)


def _stage_record(node: Node) -> StageRecord:
    with suppress(StorageError):  # of a damaged artefact: raised when the stage is made
        if found := node.where.find(*node.key):
            return node.record(found.seconds, found.path, reused=found.reused)
    return node.record(0.0, node.path, reused=node.exists)


def results_of(
    context: Context, measured: Sequence[Measured], scores: Mapping[str, Sequence[Node]], texts: Node
) -> Results:
    """Return the results of models that are measured, without those of training; the nodes are made."""
    recipe = context.assembly.recipe
    by_evaluator = read_scores(context, scores, measured)
    measurements = tuple(chain.from_iterable(by_evaluator.values()))
    subjects = tuple(model.subject() for model in measured)
    comparisons, apart = compare_all(measurements, subjects, {model.name: model.arm for model in measured})
    by_short_name = {name.rpartition(".")[2]: values for name, values in by_evaluator.items()}
    students = [model.name for model in measured if model.arm == "student"]
    return Results(
        name=recipe.name,
        folder=context.folder,
        verdict=side_by_side(comparisons, context.assembly.option_for_more_test_text()),
        measurements=measurements,
        comparisons=tuple(comparisons),
        arms=(),
        stages=tuple(context.stages),
        components=tuple(component_record(built) for built in context.assembly.built.values()),
        models={},
        data=StoredTexts(texts.path).counts(corpora_of(context, recipe.shared)),
        recipe=recipe.data,
        recipe_text="",
        environment=environment(),
        seconds=0.0,
        notes=(*messages_of(chain.from_iterable(scores.values())), *apart),
        subjects=subjects,
        licences=context.licences,
        requirements=tuple(checked_against(recipe.data, by_short_name, students, comparisons)),
        values=arm_values(measurements, subjects),
    )


def _with_training(context: Context, run_graph: RunGraph, measured: Results) -> Results:
    """Return the results with the trained models, their data, and the verdict about distillation."""
    assembly = context.assembly
    arms = [arm.result() for arm in (*run_graph.arms, *run_graph.teachers)]
    arms[0] = replace(arms[0], artifacts=tuple(read_artifact(node) for node in run_graph.exports.values()))
    trained_notes = sorted({note for arm in arms for trained in arm.phases.values() for note in trained.notes})
    ended_early = any(arm.share_of_steps() < 1 for arm in run_graph.arms if arm.arm in ("student", "control"))
    described = next(iter(run_graph.materials.values())).shapes.described
    built = dict.fromkeys(assembly.of_kind("student"), facts_of(next(iter(run_graph.students.values()))))
    named = (name for kind in ("student", "teacher") for name in assembly.of_kind(kind))
    return replace(
        measured,
        verdict=verdict(
            measured.comparisons,
            on_policy=bool(on_policy_keys(assembly)),
            ended_early=ended_early,
            has_control=assembly.recipe.control is not None,
            option=assembly.option_for_more_test_text(),
        ),
        arms=tuple(arms),
        models={name: {**described, **built}[name] for name in named if name in {**described, **built}},
        data=_data(context, run_graph, measured.data),
        notes=(*_recipe_notes(context), *trained_notes, *measured.notes),
    )


def _data(context: Context, run_graph: RunGraph, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return counts of the recipe's text, rows of all phases, and the time that recorded signals took."""
    rows = [rows_of(node) for node in {data.rows.name: data.rows for data in run_graph.materials.values()}.values()]
    texts = dict.fromkeys([run_graph.texts.path, *(data.texts.path for data in run_graph.materials.values())])
    accounts = {
        name: account
        for folder in texts
        for name, account in context.hooks.kdtool_account(replace(context.info(), folder=folder)).items()
    }
    return {
        **counts,
        **({"accounts": accounts} if accounts else {}),
        "rows": sum(len(each) for each in rows),
        "row_length": rows[0].length,
        "signal_seconds": sum(context.made[name].seconds for name in run_graph.recordings),
        **({"phases": _phases(context, run_graph)} if len(run_graph.materials) > 1 else {}),
    }


def _phases(context: Context, run_graph: RunGraph) -> dict[str, Any]:
    """Return the model that each phase trained, and its data."""
    phases = {}
    for phase in sorted(context.assembly.recipe.phases, key=lambda phase: phase.trains is None):
        data, corpora = run_graph.materials[phase.name], corpora_of(context, phase.sources)
        rows = rows_of(data.rows)
        phases[phase.name] = {
            "trains": phase.trains or "student",
            "corpora": ", ".join(corpora),
            **StoredTexts(data.texts.path).counts(corpora)["splits"]["train"],
            "rows": len(rows),
            "row_length": rows.length,
        }
    return phases


def _recipe_notes(context: Context) -> tuple[str, ...]:
    """Return lines for the user about the recipe's teachers, and about the control of an on-policy student."""
    assembly = context.assembly
    return (*describe_vocabularies(context.vocabularies), *describe_mixtures(assembly), *describe_on_policy(assembly))
