"""Exports and scores: the student in the recipe's formats, and measurements by its evaluators.

Measured are teachers, students, controls and exported files.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from math import isfinite
from pathlib import Path

from pydantic import TypeAdapter

from kdtool._assembly.checks import is_measurable
from kdtool._contract.component import Component
from kdtool._contract.evaluation import Artifact, Evaluator, Measurement, Subject
from kdtool._contract.language_model import Runtime
from kdtool._contract.reporting import Exporter
from kdtool._contract.run_info import RunInfo
from kdtool._contract.training import Student
from kdtool._errors import PluginError, StorageError
from kdtool._recipe.model import REFERENCE
from kdtool._results.comparisons import read_items
from kdtool._results.files import card_of
from kdtool._run.context import UNADAPTED, Context, open_here
from kdtool._run.graph import Graph, Node
from kdtool._run.ranks import has_ended, take_part
from kdtool._run.stages.data import reuse_answers
from kdtool._run.stages.phases import TrainedModel
from kdtool._store.artefacts import check_file
from kdtool._store.files import json_lines
from kdtool._store.shared import MODEL

_ARTIFACT: TypeAdapter[Artifact] = TypeAdapter(Artifact)
_ARTIFACT_FILE = "artifact.json"


def add_exports(context: Context, graph: Graph, trained: TrainedModel, texts: Node) -> dict[str, Node]:
    """Add the files that every exporter writes of a trained model, by the exporter."""
    return {name: _add_export(context, graph, name, trained, texts) for name in context.assembly.of_kind("exporter")}


def read_artifact(node: Node) -> Artifact:
    """Return the description of exported files; the node is made."""
    artifact = _ARTIFACT.validate_json(check_file(node.path, _ARTIFACT_FILE).read_bytes())
    path = node.path / artifact.path
    return replace(artifact, path=path, how_to_use=artifact.how_to_use.replace("{path}", str(path)))


def _add_export(context: Context, graph: Graph, name: str, trained: TrainedModel, texts: Node) -> Node:
    def build(run: RunInfo, folder: Path) -> None:
        artifact = run.component(name, Exporter).kdtool_export(run, trained.model)
        owner = run.hook.owner(name)
        if not (artifact.path.is_relative_to(folder) and artifact.path.exists()):
            raise PluginError(f"{owner} returned {artifact.path}; expected an existing file or folder below {folder}")
        if artifact.card and card_of(artifact).exists():
            raise PluginError(f"{owner} returned a card and also wrote {card_of(artifact)}; do one of both")
        relative = replace(artifact, path=artifact.path.relative_to(folder))
        (folder / _ARTIFACT_FILE).write_bytes(_ARTIFACT.dump_json(relative, indent=1))

    label = name.rpartition(".")[2]
    parts = {"exporter": context.part(name), "licences": [asdict(licensed) for licensed in context.licences]}
    inputs = {"model": trained.nodes[-1], "texts": texts}
    node = Node("exports", label, f"export as {label}", context.own, parts, inputs, build, texts=texts)
    return graph.add(replace(node, arm=trained.arm, seed=trained.seed))


_MEASUREMENT: TypeAdapter[Measurement] = TypeAdapter(Measurement)
_FILE = "measurements.jsonl"
_MESSAGES = "messages.json"


@dataclass(frozen=True)
class Measured:
    """A model to measure, and its arm: the student, a control, a teacher, an exported file.

    `title` is the model in words. `subject` is called when `node`, which holds it, is made; a teacher has no node. `teacher`
    is the component of a teacher, `unadapted` if it is measured before phases of this run trained it. `content` is the hash
    of a model that no node holds. `kept_as` is the name in its artefact: the student's `name` depends on the number of
    seeds, its measurements do not.
    """

    name: str
    kept_as: str
    arm: str
    title: str
    node: Node | None
    subject: Callable[[], Subject]
    teacher: str = ""
    unadapted: bool = False
    content: str = ""


def subjects_of(
    context: Context, arms: Iterable[TrainedModel], exports: Mapping[str, Node], untrained: Mapping[int, Node]
) -> list[Measured]:
    """Return the models to measure: teachers that offer logits or text, the reference, arms, seeds and exported files.

    Left out are teachers that are the student itself, or made of other teachers. A teacher that a phase of this run trained
    is measured after and before it, and so is a pretrained student, which is the first of `untrained`. Exports are of the
    first arm, the student with the first seed.
    """
    subjects = []
    for name, teacher in context.assembly.of_kind("teacher").items():
        if is_measurable(teacher):
            subjects += [_of_teacher(name), *([_of_teacher(name, UNADAPTED)] if name in context.adapted else [])]
    students = context.assembly.of_kind("student").values()
    if untrained and any(isinstance(student, Student) and student.pretrained for student in students):
        subjects.append(_of_base(next(iter(untrained.values()))))
    for position, arm in enumerate(arms):
        trained = _of_arm(context, arm)
        exported = exports.values() if position == 0 else ()
        subjects += [trained, *(_of_export(trained, node.label, arm, node) for node in exported)]
    return subjects


def add_scores(
    context: Context, graph: Graph, measured: Sequence[Measured], texts: Node, *, but: Collection[str] = ()
) -> dict[str, list[Node]]:
    """Add the scores of every evaluator `but` some, by name: a node for each subject, or one for all (`measures_jointly`).

    A teacher has one set of weights at a time, so that its weights before training are left out of joint measurements and
    of comparisons with teachers. The scores of teachers and shared controls are in the store, too.
    """
    nodes: dict[str, list[Node]] = {}
    now = [subject for subject in measured if not subject.unadapted]
    for name, evaluator in context.assembly.of_kind("evaluator").items():
        if name in but:
            continue
        add = partial(_add_group, context, graph, name, texts=texts)
        if isinstance(evaluator, Evaluator) and evaluator.measures_jointly:
            nodes[name] = [add(now, together=True)] if now else []
        elif isinstance(evaluator, Evaluator) and evaluator.compares_with_teachers:
            learners = [each for each in now if not (each.teacher or (each.node and each.node.kind == "exports"))]
            compared = [each for each in now if learners and each.teacher not in ("", REFERENCE)]
            teachers = [(each, add([each])) for each in compared]
            nodes[name] = [*(node for _, node in teachers), *(add([each], teachers=teachers) for each in learners)]
        else:
            nodes[name] = [add([each]) for each in measured]
    return nodes


def read_scores(
    context: Context, scores: Mapping[str, Iterable[Node]], measured: Iterable[Measured]
) -> dict[str, list[Measurement]]:
    """Read the measurements of made nodes, by evaluator and under the names that subjects have now; notify the trackers.

    Measurements of an evaluator that is not named as its plugin (`chat: {use: humaneval}`) are named by evaluator and name,
    as in `require`; so are those that two evaluators have under one name.
    """
    built, names = context.assembly.built_for(), {subject.kept_as: subject.name for subject in measured}
    renamed = {
        name for name in scores if not built[name].loaded.source and built[name].spec.use != name.rpartition(".")[2]
    }
    read = [
        (evaluator, node, stored) for evaluator, nodes in scores.items() for node in nodes for stored in _read(node)
    ]
    evaluators: dict[str, set[str]] = defaultdict(set)
    for evaluator, _, stored in read:
        evaluators[stored.name].add(evaluator)
    called: dict[str, list[Measurement]] = {evaluator: [] for evaluator in scores}
    for evaluator, node, stored in read:
        measurement = replace(stored, subject=names[stored.subject])
        if evaluator in renamed or len(evaluators[stored.name]) > 1:
            measurement = _with_prefix(evaluator, measurement)
        context.hooks.kdtool_measurement(context.info(node), measurement)
        called[evaluator].append(measurement)
    return called


def messages_of(nodes: Iterable[Node]) -> tuple[str, ...]:
    """Return the lines that evaluators showed while they measured, each once."""
    files = [check_file(node.path, _MESSAGES) for node in nodes]
    return tuple(dict.fromkeys(line for file in files for line in json.loads(file.read_text(encoding="utf-8"))))


def _read(node: Node) -> Iterator[Measurement]:
    for line in json_lines(check_file(node.path, _FILE)):
        measurement = _MEASUREMENT.validate_json(line)
        items = measurement.items and check_file(node.path, measurement.items.as_posix())
        yield replace(measurement, items=items)


def _with_prefix(evaluator: str, found: Measurement) -> Measurement:
    """Return the measurement under a name that begins with that of its evaluator."""
    prefix = f"{evaluator.rpartition('.')[2]}."
    return found if found.name.startswith(prefix) else replace(found, name=prefix + found.name)


def _of_teacher(name: str, suffix: str = "") -> Measured:
    called = name + suffix
    subject = Subject(called, "reference" if name == REFERENCE else "teacher")
    title = f"{name} before its training" if suffix else name
    return Measured(called, called, called, title, None, lambda: subject, teacher=name, unadapted=bool(suffix))


def _of_base(node: Node) -> Measured:
    return Measured("base", "base", "base", "base", node, lambda: Subject("base", "base", node.path / MODEL))


def _of_arm(context: Context, arm: TrainedModel) -> Measured:
    role = "student" if arm.arm == "student" else "control"
    name = arm.arm if len(context.assembly.recipe.seeds) == 1 else f"{arm.arm}-seed{arm.seed}"
    subject = Subject(name, role, arm.model, arm.seed, arm=arm.arm)  # type: ignore[arg-type]
    title = f"{arm.arm}, seed {arm.seed}"
    return Measured(name, f"{arm.arm}-seed{arm.seed}", arm.arm, title, arm.nodes[-1], lambda: subject)


def _of_export(trained: Measured, label: str, arm: TrainedModel, node: Node) -> Measured:
    name, kind = f"{trained.name}-{label}", f"{arm.arm}-{label}"

    def subject() -> Subject:
        return Subject(name, "artifact", read_artifact(node).path, arm.seed, arm=kind)

    title = f"{trained.title} ({label})"
    return Measured(name, f"{trained.kept_as}-{label}", kind, title, node, subject)


def _add_group(
    context: Context,
    graph: Graph,
    name: str,
    group: Sequence[Measured],
    *,
    texts: Node,
    together: bool = False,
    teachers: Sequence[tuple[Measured, Node]] = (),
) -> Node:
    """Add the scores of a group of subjects; `teachers` are the scores of those that they are compared with."""
    short, evaluator = name.rpartition(".")[2], context.assembly.shared[name]
    reads, others = (evaluator.reads_text, evaluator.asks) if isinstance(evaluator, Evaluator) else (True, ())
    asked = sorted({*others, *(measured.teacher for measured in group if measured.teacher)})
    parts = {
        "evaluator": context.part(name),
        "teachers": {teacher: context.part(teacher) for teacher in asked},
        "tokenizers": context.tokenizers(sorted({*context.assembly.of_kind("teacher")} - {*asked})),
        "subjects": [[measured.kept_as, measured.content] for measured in group],
    }
    inputs = {"texts": texts} if reads else {}
    inputs |= {measured.kept_as: measured.node for measured in group if measured.node}
    inputs |= {measured.kept_as: node for measured, node in teachers}
    asks = {**context.weights_of(asked), **{measured.teacher: None for measured in group if measured.unadapted}}
    services = {  # joint measurements are of speed, so they ask again
        teacher: node
        for teacher, node in asks.items()
        if getattr(context.assembly.shared[teacher], "answer_cache_key", None) and not together
    }
    shared = all(measured.teacher or (measured.node and measured.node.where is context.store) for measured in group)
    where = context.store if shared and not together else context.own  # speeds are those of one moment
    label, title = short, f"measuring {short}"
    if len(group) == 1:
        label, title = f"{short}-{group[0].kept_as}", f"{title} of {group[0].title}"
    # Speeds are those of one process, and so are prices; comparisons read a model's states, which one process computes.
    divisible = not (together or services or getattr(evaluator, "compares_with_teachers", False))
    build = partial(_measure, context, name, group, teachers, services, divisible)
    node = Node("scores", label, title, where, parts, inputs, build, teachers=asks, unit="items")
    return graph.add(replace(node, texts=texts if reads else None, join=_join if divisible else None))


def _join(run: RunInfo, folder: Path) -> bool:
    """Answer requests of rank 0 for a while; return False, so that this rank looks for it and joins again."""
    take_part(folder, run.rank, partial(_open_alone, run), partial(has_ended, folder))
    return False


def _open_alone(run: RunInfo, subject: Subject) -> Runtime | None:
    opened = open_here(run, subject)
    return opened and opened.value


def _measure(
    context: Context,
    name: str,
    group: Sequence[Measured],
    teachers: Sequence[tuple[Measured, Node]],
    services: Mapping[str, Node | None],
    divisible: bool,
    run: RunInfo,
    folder: Path,
) -> None:
    """Measure the subjects by an evaluator, and write its measurements and the lines that it shows."""
    run = run if divisible else replace(run, world=1)
    short = name.rpartition(".")[2]
    subjects = tuple(replace(measured.subject(), name=measured.kept_as) for measured in group)
    compared = tuple(replace(measured.subject(), files=node.path) for measured, node in teachers)
    lines, said = [], []
    given: set[tuple[str, str]] = set()

    def say(text: str) -> None:
        # An evaluator named otherwise than its plugin (`chat: {use: humaneval}`) begins lines with the plugin's name.
        text = text if re.match(rf"{re.escape(short)}\b", text) else f"{short}: {text}"
        said.append(text)
        run.say(text)

    with reuse_answers(context, replace(run, say=say), services) as asking:
        evaluator = run.component(name, Evaluator)
        for measurement in evaluator.kdtool_evaluate(asking, (*compared, *subjects)):
            problem = _problem(measurement, {subject.name for subject in subjects}, folder, given)
            if problem := problem or _problem_of_name(measurement, context.assembly.shared[name]):
                raise PluginError(f"{run.hook.owner(name)} returned a measurement {measurement.name!r}{problem}")
            given.add((measurement.name, measurement.subject))
            items = measurement.items and Path(measurement.items).relative_to(folder)
            lines.append(_MEASUREMENT.dump_json(replace(measurement, items=items)).decode())
    if not (lines or said or (evaluator.compares_with_teachers and group[0].teacher)):
        say(f"{short} measured nothing of {', '.join(subject.name for subject in subjects)}")
    (folder / _FILE).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    (folder / _MESSAGES).write_text(json.dumps(said), encoding="utf-8")


def _problem_of_name(measurement: Measurement, evaluator: Component) -> str:
    declared = getattr(evaluator, "measurements", ())
    if not declared or any(fnmatchcase(measurement.name, pattern) for pattern in declared):
        return ""
    return f", but its attribute `measurements` declares only {', '.join(declared)}"


def _problem(
    measurement: Measurement, subjects: Collection[str], folder: Path, given: Collection[tuple[str, str]]
) -> str:
    """Return the reason why a measurement cannot be stored or compared, or "".

    `given` are the names and subjects of earlier measurements.
    """
    if measurement.subject not in subjects:
        return f" of {measurement.subject!r}, which it was not asked to measure"
    if (measurement.name, measurement.subject) in given:
        return f" of {measurement.subject!r} twice"
    numbers = [value for value in (measurement.value, measurement.low, measurement.high) if value is not None]
    if not all(map(isfinite, numbers)):
        return f" of {measurement.subject!r} that is not finite: {', '.join(map(str, numbers))}"
    if measurement.items is None:
        return ""
    if not measurement.items.is_relative_to(folder):
        return f" with items in {measurement.items}, which is not below {folder}"
    try:
        read_items(measurement.items)
    except (OSError, StorageError) as error:
        return f" with items in {measurement.items} that cannot be read: {type(error).__name__}: {error}"
    return ""
