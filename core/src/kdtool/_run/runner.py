"""The run: from an assembled recipe to results, stage by stage.

text → untrained student → rows → signals → phases of every arm and seed → exports → scores → comparison → report.
Each stage is an artefact that is reused where nothing it depends on has changed; text, untrained students, rows and
signals lie in the store that runs share.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kdtool._assembly import Assembly
from kdtool._contract.component import Component
from kdtool._contract.models import Measurement, ModelFacts, Subject
from kdtool._contract.signals import Want
from kdtool._contract.training import RunInfo
from kdtool._errors import PluginError, UsageError
from kdtool._recipe.model import PhaseSpec, Recipe
from kdtool._run.artefacts import Artefact, Artefacts, storage_errors, write_beside
from kdtool._run.comparison import compare_all
from kdtool._run.context import Context, NoTexts, Stage, close_components
from kdtool._run.exports import export
from kdtool._run.fingerprint import fingerprint
from kdtool._run.lock import run_lock
from kdtool._run.record import component_record, environment, write_results
from kdtool._run.results import ArmResult, Comparison, Results
from kdtool._run.rows import StoredRows, write_rows
from kdtool._run.scores import score
from kdtool._run.signals import from_teacher
from kdtool._run.students import build_students, check_tokenizers, facts_of
from kdtool._run.texts import StoredTexts, write_texts
from kdtool._run.training import Materials, arm_seconds, plain_terms, terms_of, train_arm, want_of
from kdtool._run.verdict import verdict

__all__ = ["execute"]

_TIME_ARM = "control-time"


@dataclass(frozen=True)
class _Prepared:
    """What is there before training: artefacts by what they are, and shapes by component."""

    texts: Artefact
    students: Mapping[int, Artefact]
    teachers: Mapping[str, str]
    materials: Materials

    @property
    def signal_seconds(self) -> float:
        """What the teacher's signals cost, whenever they were taken."""
        return sum(artefact.seconds for artefact in self.materials.signals.values())


def execute(assembly: Assembly, folder: Path, store: Path, *, offline: bool = False, recipe_text: str = "") -> Results:
    """Run an assembled recipe.

    Args:
        assembly: the recipe with its plugins.
        folder: the run's own folder; locked while it is worked on.
        store: the folder that runs share.
        offline: refuse to use a network.
        recipe_text: the recipe as the user wrote it, for the report.

    Raises:
        KdtoolError: see `kdtool._errors`. What was finished is kept, and the same call goes on from there.
    """
    start = time.monotonic()
    with run_lock(folder):
        context = Context(assembly, folder, Artefacts(store), Artefacts(folder), offline, assembly.hooks())
        run = context.info(Stage("run"), folder)
        context.hooks.kdtool_run_start(run)
        for name, found in context.hooks.kdtool_acknowledge().items():
            text = (f"terms of {name}: {found.licence}", found.url, *found.restrictions)
            context.say(" ".join(part for part in text if part))
        try:
            results = _stages(context, run, start, recipe_text)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            context.hooks.kdtool_run_end(run, "interrupted" if interrupted else "failed", None)
            raise
        finally:
            close_components(context.hooks, set(assembly.shared), context.say)
        context.hooks.kdtool_run_end(run, "done", results.report)
        return results


def _stages(context: Context, run: RunInfo, start: float, recipe_text: str) -> Results:
    recipe = context.assembly.recipe
    prepared = _prepare(context, run)
    arms = _train(context, prepared)
    trained = {stage.path: stage.fingerprint for stage in context.stages}
    arms[0] = replace(arms[0], artifacts=export(context, arms[0], trained[arms[0].path.parent]))
    last = {stage.path: stage.fingerprint for stage in context.stages}
    subjects = _subjects(context, prepared, arms, last)
    surroundings = {"texts": prepared.texts.fingerprint, "teachers": fingerprint("teachers", **prepared.teachers)}
    measurements = score(context, subjects, surroundings)
    arm_of = {name: arm.arm for arm in arms for name in [_subject_name(recipe, arm)]}
    comparisons = compare_all(measurements, list(subjects), arm_of)
    results = _results(context, prepared, arms, tuple(subjects), measurements, comparisons)
    results = replace(results, recipe_text=recipe_text, seconds=time.monotonic() - start)
    for name in context.assembly.named("reporter"):
        results = replace(results, report=context.hooks.kdtool_report.of(name)(run, results))
    with storage_errors(context.folder):
        write_results(results)
    return results


def _prepare(context: Context, run: RunInfo) -> _Prepared:
    assembly = context.assembly
    context.identities.update(context.hooks.kdtool_identity(run))
    for phase in (phase for phases in assembly.arms.values() for phase in phases):
        identity = assembly.hooks(phase).kdtool_identity
        own = [spec.path for spec in phase.components if spec.path in identity.names()]
        context.identities.update({name: identity.of(name)(run) for name in own})
    teachers = {name: context.part(name) for name in assembly.named("teacher")}
    used = frozenset(t.teacher for phase in assembly.arms["student"] for t in plain_terms(assembly, phase) if t.teacher)
    check_tokenizers(context, run, used)
    texts = _make_texts(context)
    context.texts = StoredTexts(texts.path)
    run = context.info(Stage("run"), context.folder)
    students = build_students(context, texts, teachers)
    rows, print_of_rows = _make_rows(context, texts)
    facts = {name: _described(context, run, name) for name in used}
    plain = Materials(StoredRows(rows.path, print_of_rows), facts_of(next(iter(students.values()))), facts, {})
    signals = _make_signals(context, plain, used) if assembly.named("cache") else {}
    return _Prepared(texts, students, teachers, replace(plain, signals=signals))


def _make_texts(context: Context) -> Artefact:
    kinds = {"corpus", "screen"}
    parts = [context.part(name) for name, built in context.assembly.built_for().items() if built.spec.kind in kinds]
    stage = Stage("text", unit="documents")
    context.texts = NoTexts()

    def build(run: RunInfo, folder: Path) -> None:
        write_texts(run, run.hook, folder)

    return context.make(context.store, stage, fingerprint("text", components=parts), build)


def _make_rows(context: Context, texts: Artefact) -> tuple[Artefact, str]:
    (packer,), (student,) = context.assembly.named("packer"), context.assembly.named("student")
    tokenizer = context.hooks.kdtool_tokenizer.of(student)(context.info(Stage("rows"), context.folder))
    print_of = fingerprint(
        "rows", texts=texts.fingerprint, tokenizer=tokenizer.fingerprint, packer=context.part(packer)
    )

    def build(run: RunInfo, folder: Path) -> None:
        rows = run.hook.kdtool_rows.of(packer)(run, run.texts.examples("train"), tokenizer)
        write_rows(rows or (), folder, run.hook.owner(packer))

    return context.make(context.store, Stage("rows", unit="rows"), print_of, build), print_of


def _make_signals(context: Context, materials: Materials, teachers: frozenset[str]) -> dict[str, Artefact]:
    """Record the signals of every teacher that a loss learns from, once for all seeds, arms and phases."""
    (cache,) = context.assembly.named("cache")
    made = {}
    for teacher in sorted(teachers):
        want = _joint_want(context, materials, teacher)
        print_of = fingerprint(
            "signals",
            rows=materials.rows.fingerprint,
            teacher=context.part(teacher),
            cache=context.part(cache),
            want=[sorted(want.kinds), want.layers, want.temperature],
        )

        def build(run: RunInfo, folder: Path, teacher: str = teacher, want: Want = want) -> None:
            wanted = run.hook.kdtool_wanted.of(cache)(want)
            run.hook.kdtool_record.of(cache)(run, materials.rows, from_teacher(run.hook, teacher, wanted), folder)

        stage = Stage("signals", total=len(materials.rows), unit="rows")
        made[teacher] = context.make(context.store, stage, print_of, build)
    return made


def _joint_want(context: Context, materials: Materials, teacher: str) -> Want:
    wants = []
    for phase in context.assembly.arms["student"]:
        terms = terms_of(context, phase, context.assembly.hooks(phase), materials)
        if any(term.teacher == teacher for term in terms):
            wants.append(want_of(context, terms, teacher))
    kinds = frozenset(kind for want in wants for kind in want.kinds)
    layers = tuple(sorted({layer for want in wants for layer in want.layers}))
    return Want(kinds, layers, wants[0].temperature)


def _described(context: Context, run: RunInfo, name: str) -> ModelFacts:
    if name not in context.hooks.kdtool_describe.names():
        raise PluginError(f"{context.hooks.owner(name)} does not describe its model, which its losses need")
    return context.hooks.kdtool_describe.of(name)(run)


def _train(context: Context, prepared: _Prepared) -> list[ArmResult]:
    """Train every arm with every seed; the time-matched control comes last, when the speeds are known."""
    found: list[ArmResult] = []
    for seed in context.assembly.recipe.seeds:
        by_arm: dict[str, ArmResult] = {}
        for arm, phases in context.assembly.arms.items():
            if arm == _TIME_ARM:
                phases = _time_matched(context, phases, by_arm, prepared.signal_seconds, seed)  # noqa: PLW2901
            stage = Stage("phases", arm=arm, seed=seed)
            by_arm[arm] = train_arm(context, stage, phases, prepared.students[seed], prepared.materials)
        _check_tokens(by_arm)
        found.extend(by_arm.values())
    return sorted(found, key=lambda arm: list(context.assembly.arms).index(arm.arm))


def _check_tokens(by_arm: Mapping[str, ArmResult]) -> None:
    """Refuse a control that saw more or fewer tokens than the student: the verdict would not be true."""
    counts = {arm: sum(trained.tokens for trained in result.phases.values()) for arm, result in by_arm.items()}
    if counts.get("control", counts["student"]) != counts["student"]:
        seen = f"it trained on {counts['control']:,} tokens, the student on {counts['student']:,}"
        raise UsageError(f"control: {seen}; give the control's trainer the same batch and accumulation")


def _time_matched(
    context: Context, phases: tuple[PhaseSpec, ...], by_arm: Mapping[str, ArmResult], signal_seconds: float, seed: int
) -> tuple[PhaseSpec, ...]:
    """Give the control the steps that the student's time buys, the teacher's signals charged in full to each seed.

    The number is kept in the run's folder beside the arms that it was measured on, so that a resumed run uses the same.
    """
    measured = fingerprint("time", arms=[str(by_arm[arm].path.parent.name) for arm in ("student", "control")])
    path = context.folder / f"{_TIME_ARM}-seed{seed}.txt"
    kept = path.read_text(encoding="utf-8").split() if path.exists() else []
    if kept[:1] == [measured]:
        ratio = float(kept[1])
    else:
        ratio = (arm_seconds(by_arm["student"]) + signal_seconds) / max(arm_seconds(by_arm["control"]), 1e-9)
        write_beside(path, f"{measured} {ratio!r}\n")
    return tuple(replace(phase, steps=max(1, round(phase.steps * ratio))) for phase in phases)


def _subjects(
    context: Context, prepared: _Prepared, arms: list[ArmResult], last: Mapping[Path, str]
) -> dict[Subject, str]:
    subjects = {}
    for name, component in context.assembly.named("teacher").items():
        if _opens(component):
            subjects[Subject(name, "teacher")] = prepared.teachers[name]
    for arm in arms:
        role = "student" if arm.arm == "student" else "control"
        name = _subject_name(context.assembly.recipe, arm)
        subjects[Subject(name, role, arm.path, arm.seed)] = last[arm.path.parent]  # type: ignore[arg-type]
        for artifact in arm.artifacts:
            made = next(parent for parent in artifact.path.parents if parent in last)
            subjects[Subject(f"{name}-{artifact.format}", "artifact", artifact.path, arm.seed)] = last[made]
    return subjects


def _opens(component: Component) -> bool:
    return "text" in getattr(component, "offers", ()) or "logits" in getattr(component, "offers", ())


def _subject_name(recipe: Recipe, arm: ArmResult) -> str:
    return arm.arm if len(recipe.seeds) == 1 else f"{arm.arm}-seed{arm.seed}"


def _results(
    context: Context,
    prepared: _Prepared,
    arms: list[ArmResult],
    subjects: tuple[Subject, ...],
    measurements: list[Measurement],
    comparisons: list[Comparison],
) -> Results:
    texts = StoredTexts(prepared.texts.path)
    rows = prepared.materials.rows
    notes = {note for arm in arms for trained in arm.phases.values() for note in trained.notes}
    return Results(
        name=context.assembly.recipe.name,
        folder=context.folder,
        status="done",
        verdict=verdict(comparisons),
        measurements=tuple(measurements),
        comparisons=tuple(comparisons),
        arms=tuple(arms),
        stages=tuple(context.stages),
        components=tuple(component_record(built) for built in context.assembly.built.values()),
        models={"student": prepared.materials.student, **prepared.materials.teachers},
        data={
            **texts.counts(),
            "rows": len(rows),
            "row_length": rows.length,
            "signal_seconds": prepared.signal_seconds,
        },
        recipe=context.assembly.recipe.data,
        recipe_text="",
        environment=environment(),
        seconds=0.0,
        notes=tuple(sorted(notes)),
        subjects=subjects,
        terms=context.hooks.kdtool_acknowledge(),
    )
