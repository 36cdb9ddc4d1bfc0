"""The run: from an assembled recipe to results.

The nodes of the graph are made in order, each reused where nothing that it depends on has changed; then the arms are
compared and reported. Text, untrained students, rows and signals lie in the store that runs share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.checks.requirements import held_against
from kdtool._contract.evaluation import Artifact, Measurement
from kdtool._contract.language_model import ModelFacts
from kdtool._contract.licences import Licensed, told
from kdtool._contract.reporting import ArmResult, Comparison, Reporter, Requirement, Results
from kdtool._contract.run_info import RunInfo
from kdtool._errors import PluginError, UsageError, cause_of
from kdtool._plugins.attribution import culprit, translated
from kdtool._results.compare_arms import compare_all
from kdtool._results.files import component_record, environment, write_results
from kdtool._results.model_cards import card_of, write_card
from kdtool._results.verdict import verdict
from kdtool._run.build_graph import Stages, add_stages
from kdtool._run.context import Context
from kdtool._run.graph import Graph, Node, Stage
from kdtool._run.plan import last_nodes
from kdtool._run.preflight.equal_tokens import refuse_uneven_ahead
from kdtool._run.preflight.licences import licences_of
from kdtool._run.preflight.measurable import refuse_unexportable, refuse_unmeasurable
from kdtool._run.preflight.missing import refuse_missing
from kdtool._run.preflight.on_policy import note_on_policy, on_policy_keys
from kdtool._run.preflight.vocabularies import noted
from kdtool._run.roll_call import agree
from kdtool._run.stages.exports import read_artifact
from kdtool._run.stages.phases import Arm
from kdtool._run.stages.rows import corpora_of, rows_of
from kdtool._run.stages.scores import read_scores, said_of
from kdtool._run.stages.terms import mixtures_noted
from kdtool._run.stages.text import StoredTexts
from kdtool._store.artefacts import storage_errors
from kdtool._store.atomic_files import write_sealed
from kdtool._store.layout import GRAPH
from kdtool._store.locks import recorded_holder, run_lock
from kdtool._store.shared_store import register_run

__all__ = ["execute", "keep", "reported", "session"]


@translated()
def execute(
    assembly: Assembly,
    folder: Path,
    store: Path,
    *,
    offline: bool = False,
    recipe_text: str = "",
    verify: bool = False,
) -> Results:
    """Run an assembled recipe.

    Args:
        assembly: the recipe with its plugins.
        folder: the run's own folder; locked while it is worked on.
        store: the folder that runs share.
        offline: refuse to use a network.
        recipe_text: the recipe as the user wrote it, for the report.
        verify: compare all that is reused with what was written, byte by byte; else what is read to make something new.

    Raises:
        KdtoolError: see `kdtool._errors`. What was finished is kept, and the same call goes on from there.

    Under torchrun every process calls this: rank 0 does the run, the others train with it and return the same results.
    """
    licences = licences_of(assembly, assembly.hooks())
    return session(
        assembly, folder, store, partial(_run, recipe_text), offline=offline, licences=licences, verify=verify
    )


def session(
    assembly: Assembly,
    folder: Path,
    store: Path,
    work: Callable[[Context, RunInfo], Results],
    *,
    offline: bool,
    licences: tuple[Licensed, ...] = (),
    verify: bool = False,
) -> Results:
    """Do the work of a run in its folder: locked, known to the store, told to the trackers.

    Of several processes the first does so; the others only work along.
    """
    context = Context.of(assembly, folder, store, offline=offline, licences=licences, verify=verify)
    run = context.info(Stage("run"), folder)
    if context.rank:
        return work(context, run)
    with run_lock(folder):
        register_run(store, folder)
        context.hooks.kdtool_run_start(run)
        for line in told(licences, assembly.recipe.name):
            context.say(line)
        try:
            results = work(context, run)
        except BaseException as error:
            _end_failed(context, run, interrupted=isinstance(error, KeyboardInterrupt))
            raise
        context.hooks.kdtool_run_end(run, "done", results.report)
        return results


def _end_failed(context: Context, run: RunInfo, *, interrupted: bool) -> None:
    """Notify the trackers; the error of a required one is shown, and does not hide why the run ended."""
    try:
        context.hooks.kdtool_run_end(run, "interrupted" if interrupted else "failed", None)
    except Exception as error:
        context.assembly.complain(f"{culprit(error)} failed in kdtool_run_end: {cause_of(error)}")


def _run(recipe_text: str, context: Context, run: RunInfo) -> Results:
    start = time.monotonic()
    if context.rank == 0:
        refuse_missing(context.assembly, run)
        refuse_uneven_ahead(context, run)
    stages = add_stages(context, partial(_make_first, context))
    for line in _noted(context):
        context.say(line)
    keep(context, stages.graph)
    refuse_unexportable(context, next(iter(stages.students.values())), stages.exports)
    for node in stages.graph.nodes.values():
        context.make(node)
        if node in stages.exports.values() and not context.rank:
            _describe(context, [found for found in [read_artifact(node)] if not card_of(found).exists()])
        _check_tokens(context.assembly, stages.arms, node.stage)
    by_evaluator = read_scores(context, stages.scores)
    measurements = [found for each in by_evaluator.values() for found in each]
    subjects = [measured.subject() for measured in stages.measured]
    arm_of = {measured.name: measured.arm for measured in stages.measured}
    comparisons, apart = compare_all(measurements, subjects, arm_of)
    results = _results(context, stages, measurements, comparisons)
    notes, seconds = (*results.notes, *apart), time.monotonic() - start
    required = _required(context, by_evaluator, arm_of, comparisons)
    results = replace(results, recipe_text=recipe_text, seconds=seconds, notes=notes, requirements=required)
    if context.rank:
        return results
    _describe(context, results.arms[0].artifacts, results)
    return reported(context, run, results)


def _describe(context: Context, artifacts: Sequence[Artifact], results: Results | None = None) -> None:
    """Write the cards of exported models: without results, so that one that is not yet measured has its licence, too."""
    with storage_errors(context.folder):
        for artifact in artifacts:
            write_card(artifact, results)


def reported(context: Context, run: RunInfo, results: Results) -> Results:
    """Write `results.json`, have the report written, and return the results with the report's place.

    The results are there also where a reporter fails.
    """
    with storage_errors(context.folder):
        write_results(results)
    for name in context.assembly.named("reporter"):
        results = replace(results, report=context.hooks.component(name, Reporter).kdtool_report(run, results))
        if results.report is None or not results.report.exists():
            raise PluginError(f"{context.hooks.owner(name)} wrote no report: there is no {results.report}")
        with storage_errors(context.folder):
            write_results(results)
    return results


def _required(
    context: Context,
    by_evaluator: Mapping[str, Sequence[Measurement]],
    arm_of: Mapping[str, str],
    comparisons: Sequence[Comparison],
) -> tuple[Requirement, ...]:
    """Hold the student against what the recipe requires."""
    measured = {name.rpartition(".")[2]: found for name, found in by_evaluator.items()}
    students = [name for name, arm in arm_of.items() if arm == "student"]
    return tuple(held_against(context.assembly.recipe.data, measured, students, comparisons))


def _make_first(context: Context, graph: Graph, texts: Node) -> None:
    """Make the nodes that there are before the graph is whole; meanwhile what the last run needed stays needed.

    Evaluators look at the text as soon as it is there.
    """
    keep(context, graph, before=last_nodes(context.folder))
    for node in graph.nodes.values():
        context.make(node)
        if node is texts:
            refuse_unmeasurable(context, texts)


def keep(context: Context, graph: Graph, before: Mapping[str, Any] | None = None) -> None:
    """Write what the run consists of, with the nodes `before` where the graph is not whole; several processes compare it."""
    if not context.rank:
        record = graph.record(context.assembly.recipe.name, context.store.root, before)
        with storage_errors(context.folder):
            write_sealed(context.folder / GRAPH, {**record, "by": recorded_holder(context.folder)})
    if context.world > 1:
        context.leader = agree(context.folder, graph, context.rank, context.world, whole=before is None)


def _check_tokens(assembly: Assembly, arms: Sequence[Arm], stage: Stage) -> None:
    """Refuse a control that saw more or fewer tokens than the student, once it is trained: the verdict would not be true.

    More it may see where the student learned also on text of its own, which is shorter than what it takes the place of, and
    anything where one of them ended early, because it got no better.
    """
    if (stage.kind, stage.arm) != ("phases", "control"):
        return
    student, control = (next(a for a in arms if (a.arm, a.seed) == (arm, stage.seed)) for arm in ("student", "control"))
    if stage.label != control.nodes[-1].stage.label:
        return
    more = control.tokens > student.tokens and on_policy_keys(assembly)
    early = min(student.share_of_steps, control.share_of_steps) < 1
    if control.tokens != student.tokens and not more and not early:
        seen = f"it trained on {control.tokens:,} tokens, the student on {student.tokens:,}"
        raise UsageError(f"control: {seen}; give the control's trainer the same batch and accumulation")


def _results(
    context: Context, stages: Stages, measurements: list[Measurement], comparisons: list[Comparison]
) -> Results:
    arms = [arm.result() for arm in (*stages.arms, *stages.teachers)]
    arms[0] = replace(arms[0], artifacts=tuple(read_artifact(node) for node in stages.exports.values()))
    return Results(
        name=context.assembly.recipe.name,
        folder=context.folder,
        verdict=verdict(
            comparisons, on_policy=bool(on_policy_keys(context.assembly)), ended_early=_ended_early(stages.arms)
        ),
        measurements=tuple(measurements),
        comparisons=tuple(comparisons),
        arms=tuple(arms),
        stages=tuple(context.stages),
        components=tuple(component_record(built) for built in context.assembly.built.values()),
        models=_models(context, stages),
        data=_data(context, stages),
        recipe=context.assembly.recipe.data,
        recipe_text="",
        environment=environment(),
        seconds=0.0,
        notes=(*_noted(context), *_notes(arms), *said_of(context, chain.from_iterable(stages.scores.values()))),
        subjects=tuple(measured.subject() for measured in stages.measured),
        licences=context.licences,
    )


def _ended_early(arms: Sequence[Arm]) -> bool:
    return any(arm.share_of_steps < 1 for arm in arms if arm.arm in ("student", "control"))


def _models(context: Context, stages: Stages) -> dict[str, ModelFacts]:
    """Return the shapes of the student, and of the teachers that describe themselves."""
    facts = next(iter(stages.materials.values())).facts
    wanted = (*context.assembly.named("student"), *context.assembly.named("teacher"))
    return {name: facts[name] for name in wanted if name in facts}


def _data(context: Context, stages: Stages) -> dict[str, Any]:
    """Return what was trained on: counts of the recipe's text, rows of all phases, and what the teacher's signals cost."""
    rows = [rows_of(node) for node in {own.rows.name: own.rows for own in stages.materials.values()}.values()]
    corpora = corpora_of(context, context.assembly.recipe.shared)
    return {
        **StoredTexts(stages.texts.path).counts(corpora),
        "rows": sum(len(each) for each in rows),
        "row_length": rows[0].length,
        "signal_seconds": sum(context.seconds(node) for node in stages.signals),
        **({"phases": _phases(context, stages)} if len(stages.materials) > 1 else {}),
    }


def _phases(context: Context, stages: Stages) -> dict[str, Any]:
    """Return what each phase trained, and on what, where there are several."""
    found = {}
    for phase in sorted(context.assembly.recipe.phases, key=lambda phase: phase.trains is None):
        own, corpora = stages.materials[phase.name], corpora_of(context, phase.sources)
        rows = rows_of(own.rows)
        found[phase.name] = {
            "trains": phase.trains or "student",
            "corpora": ", ".join(corpora),
            **StoredTexts(own.texts.path).counts(corpora)["splits"]["train"],
            "rows": len(rows),
            "row_length": rows.length,
        }
    return found


def _noted(context: Context) -> tuple[str, ...]:
    """Return what the user must know of the recipe's teachers, and of what the control is spared."""
    return *noted(context.vocabularies), *mixtures_noted(context.assembly), *note_on_policy(context.assembly)


def _notes(arms: Sequence[ArmResult]) -> tuple[str, ...]:
    return tuple(sorted({note for arm in arms for trained in arm.phases.values() for note in trained.notes}))
