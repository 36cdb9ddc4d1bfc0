"""Phases: the training of one arm with one seed, or of a teacher, each phase an artefact that resumes after a kill.

`add_arm` adds the phases of a student, `add_teachers` those that fine-tune a teacher, by the same `phase_node`;
`phase_training` trains one when its node is made. Trained teachers are in the store that runs share, added before everything
that asks them, and made once for all seeds and arms, with seed 0.

Controls of `control: {self: …}` train on rows of samples from the untrained student. A corpus samples while the packer asks
for text, and stops once its rows have as many labelled tokens as the student's phase trains on. Completions after a prompt
leave tokens of a row without labels, so that these controls take more steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from kdtool._assembly.checks import adapting_phases, taken_by, trained_teacher, validators_of
from kdtool._assembly.signals import labelling
from kdtool._contract.data import Row
from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import Runtime
from kdtool._contract.reporting import ArmResult
from kdtool._contract.run_info import LossTerm, RunInfo
from kdtool._contract.sources import Corpus, Teacher
from kdtool._contract.training import Trained, Trainer
from kdtool._errors import PluginError
from kdtool._recipe.model import ARMS, SELF, ComponentSpec, PhaseSpec
from kdtool._run.context import Context, open_subject
from kdtool._run.graph import Graph, Node
from kdtool._run.stages.data import Materials, add_rows, add_texts, corpora_of, pack, packing_parts, rows_of
from kdtool._run.stages.phase_training import PhaseTraining, read_history, read_trained
from kdtool._run.stages.row_files import StoredRows, write_rows
from kdtool._run.stages.students import Shapes
from kdtool._run.stages.terms import teachers_of_terms, terms_of
from kdtool._store.files import commit, write_beside
from kdtool._store.shared import MODEL

_STEPS_FILE = "steps.json"


def training_title(learner: str, phase: str, seed: int | None = None) -> str:
    """Return the training of an arm or a teacher in words, such as "training of student, seed 0, phase warm-up"."""
    numbered = "" if seed is None else f", seed {seed}"
    return f"training of {learner}{numbered}" + ("" if phase == "train" else f", phase {phase}")


@dataclass(frozen=True)
class TrainedModel:
    """A model that the run trains: its phases in order, with their nodes. `nodes[-1]` holds the trained model.

    `arm` is its arm, or the name of a teacher.
    """

    arm: str
    seed: int
    phases: tuple[PhaseSpec, ...]
    nodes: tuple[Node, ...]

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.nodes[-1].path / MODEL

    def reports(self) -> list[Trained]:
        """Read the reports of the phases; its nodes are made."""
        return [read_trained(node.path) for node in self.nodes]

    def share_of_steps(self) -> float:
        """Return the steps that were trained over those of the recipe, in (0, 1]: below 1 after early stopping."""
        return sum(report.steps for report in self.reports()) / sum(phase.steps for phase in self.phases)

    def result(self) -> ArmResult:
        """Read reports and histories of the phases; its nodes are made."""
        trained = {phase.name: report for phase, report in zip(self.phases, self.reports(), strict=True)}
        histories = {name: read_history(report.history) for name, report in trained.items()}
        return ArmResult(self.arm, self.seed, self.model, trained, histories)


@dataclass(frozen=True)
class MatchedTime:
    """Steps of a control that may train for as long as the student did plus all time in `charged` (teachers, signals).

    The time in `spent` is its own cost: that of its samples.
    """

    student: TrainedModel
    control: TrainedModel
    charged: tuple[Node, ...]
    spent: tuple[Node, ...] = ()

    def inputs(self, phase: PhaseSpec) -> dict[str, Node]:
        """Return the nodes that the steps depend on, by their role."""
        inputs = {"the student's time": self.student.nodes[-1], "the control's time": self.control.nodes[-1]}
        return inputs | {f"the time of {node.name}": node for node in (*self.charged, *self.spent)}

    def steps(self, context: Context, phase: PhaseSpec, folder: Path) -> int:
        """Return the steps of a phase whose inputs are made; stored in its folder, so that a resumed phase has the same."""
        kept = folder / _STEPS_FILE
        if kept.exists():
            return int(json.loads(kept.read_bytes())["steps"])
        student, control = (sum(report.seconds for report in arm.reports()) for arm in (self.student, self.control))
        charged, spent = (
            sum(context.made[node.name].seconds for node in nodes) for nodes in (self.charged, self.spent)
        )
        seconds = student + charged - spent
        steps = max(1, round(phase.steps * seconds / max(control / self.control.share_of_steps(), 1e-9)))
        write_beside(kept, json.dumps({"steps": steps}))
        commit(folder, kept)
        return steps


def add_arm(
    context: Context,
    graph: Graph,
    arm: str,
    seed: int,
    initial: Node,
    materials: Mapping[str, Materials],
    matched: MatchedTime | MatchedTokens | None = None,
) -> TrainedModel:
    """Add the phases of an arm with a seed, each on the model that the one before left, the first on `initial`.

    `materials` are by the phase's name. `matched` returns the steps of a control that has others than the
    recipe's.
    """
    phases = context.assembly.arms[arm]
    nodes, before = [initial], dict[str, Node]()
    for phase in phases:
        previous = before[phase.name] = nodes[-1]
        student = partial(_open_student, context, previous.path / MODEL)
        node = phase_node(
            context, arm, seed, phase, materials[phase.name], student, {"model": previous}, before, matched
        )
        nodes.append(graph.add(node))
    return TrainedModel(arm, seed, phases, tuple(nodes[1:]))


def phase_node(
    context: Context,
    learner: str,
    seed: int,
    phase: PhaseSpec,
    materials: Materials,
    open_learner: Callable[[RunInfo], Runtime],
    inputs: Mapping[str, Node],
    before: Mapping[str, Node],
    matched: MatchedTime | MatchedTokens | None = None,
) -> Node:
    """Return the node in which a phase trains the model that `open_learner` opens: of the arm or teacher `learner`.

    `before` holds the student before this phase and each earlier one, for teachers that are such a student.
    """
    trained_teacher = {learner} & {*context.assembly.of_kind("teacher")}
    terms = terms_of(context, phase, materials.shapes.described)
    validators = validators_of(context.assembly.recipe, phase, context.assembly.built)
    steps = partial(matched.steps, context, phase) if matched else lambda _: phase.steps
    training = PhaseTraining(context, phase, materials, open_learner, steps)
    teachers = teachers_of_terms(terms)
    beside = {name for name in teachers if name not in materials.recordings}
    beside |= {name for spec in validators for name in getattr(context.assembly.shared[spec.path], "asks", ())}
    beside |= {spec.path for spec in labelling(context.assembly.built, phase) if spec.kind == "teacher"}
    beside |= {*taken_by(beside, context.assembly.shared)}
    inputs = {**inputs, "rows": materials.rows}
    recorded = {name: recording.node for name, recording in materials.recordings.items() if name in teachers}
    inputs |= {f"signals of {name}": node for name, node in recorded.items()}
    inputs |= {f"rows of {name}": node for name, node in materials.teacher_rows.items() if name in teachers}
    inputs |= matched.inputs(phase) if matched else {}
    # Runs share a control's models, unless another arm's steps follow from its time.
    is_shared = learner in SELF.keys() | set(SELF.values()) and ARMS["time"] not in context.assembly.arms
    parts = {
        "steps": phase.steps,
        "seed": seed,
        "terms": {term.label: _settings_of(term, materials.shapes, several=len(teachers) > 1) for term in terms},
        "components": {spec.path: context.part(spec.path, phase) for spec in phase.components},
        "teachers": {name: context.part(name) for name in sorted(beside | trained_teacher)},
        "validators": {spec.path: context.part(spec.path) for spec in validators},
        "processes": _processes(context, phase),
    }
    return Node(
        kind="teachers" if trained_teacher else "phases",
        label=f"{learner}-{phase.name}" if trained_teacher else f"{learner}-seed{seed}-{phase.name}",
        title=training_title(learner, phase.name, None if trained_teacher else seed),
        where=context.store if trained_teacher or is_shared else context.own,
        parts=parts,
        inputs=inputs,
        build=training.build,
        join=training.join,
        texts=materials.texts,
        total=steps,
        phase=phase,
        teachers=context.weights_of(beside | trained_teacher) | _students_before(context, beside, phase, before),
        arm=learner,
        seed=seed,
        unit="steps",
    )


def _processes(context: Context, phase: PhaseSpec) -> int:
    """Return the number of processes, which decides the rows of a step; 0 if the phase's trainer makes up for it."""
    trainer = context.assembly.built[phase.trainer.key].component if phase.trainer else None
    return 0 if isinstance(trainer, Trainer) and trainer.elastic else context.world


def _students_before(
    context: Context, teachers: Iterable[str], phase: PhaseSpec, before: Mapping[str, Node]
) -> dict[str, Node]:
    """Return the teachers that are the student before a phase, each with the node of that student."""
    asked = {name: getattr(context.assembly.shared[name], "initial_student", None) for name in teachers}
    return {name: before[earlier or phase.name] for name, earlier in asked.items() if earlier is not None}


def _settings_of(term: LossTerm, shapes: Shapes, *, several: bool) -> dict[str, Any]:
    """Return the settings of a term besides its loss and the phase's teacher; of `several` teachers, also their shares.

    Layers that the untrained student decides are left out, since the phase depends on that student.
    """
    weight = term.weight if isinstance(term.weight, float | int) else asdict(term.weight)
    settings: dict[str, Any] = {"weight": weight, "temperature": term.temperature}
    if term.layers and not shapes.untrained:
        settings["layers"] = list(term.layers)
    if term.shared is not None:
        settings["shared tokens"] = term.shared
    return settings | (dict(term.teachers) if several else {})


def _open_student(context: Context, model: Path, run: RunInfo) -> Runtime:
    opened = open_subject(run, Subject("student", "student", model, run.seed))
    if opened is None or opened.value.model is None:
        (built,) = context.assembly.of_kind("student")
        raise PluginError(f"neither {run.hook.owner(built)} nor another component opens the student in {model}")
    return opened.value


@dataclass(frozen=True)
class MatchedTokens:
    """Steps of a control in which its rows, by phase in `own`, have as many labels as those of `materials`."""

    materials: Mapping[str, Materials]
    own: Mapping[str, Materials]

    def inputs(self, phase: PhaseSpec) -> dict[str, Node]:
        """Return the nodes that the steps depend on, by their role."""
        return {"the student's rows": self.materials[phase.name].rows}

    def steps(self, context: Context, phase: PhaseSpec, folder: Path) -> int:
        """Return the steps of a phase whose inputs are made."""
        theirs, own = (rows_of(data[phase.name].rows) for data in (self.materials, self.own))
        seen = _count_different_rows(context, phase, len(theirs))
        return max(1, round(phase.steps * (_labels(theirs, seen) / seen) / (_labels(own, len(own)) / len(own))))


def add_own_rows(
    context: Context, graph: Graph, corpus: ComponentSpec, materials: Mapping[str, Materials], student: Node
) -> dict[str, Materials]:
    """Add the rows that `corpus` samples from the untrained `student`, for each phase with prompts from its text."""
    phases = context.assembly.arms["control"]
    return {
        phase.name: replace(
            materials[phase.name],
            rows=graph.add(_sampling(context, corpus, phase, materials[phase.name], student)),
            recordings={},
            teacher_rows={},
        )
        for phase in phases
    }


def _count_rows(context: Context, phase: PhaseSpec) -> int:
    """Return the number of rows that a phase trains on, each as often as it does; 0 if its trainer does not declare it."""
    trainer = context.assembly.built[phase.trainer.key].component if phase.trainer else None
    if not isinstance(trainer, Trainer):
        return 0
    return phase.steps * trainer.rows_per_step * (1 if trainer.elastic else context.world)


def _count_different_rows(context: Context, phase: PhaseSpec, rows: int) -> int:
    """Return the number of different rows that a phase trains on, of `rows`."""
    return min(rows, _count_rows(context, phase) or rows)


def _sampling(context: Context, corpus: ComponentSpec, phase: PhaseSpec, data: Materials, student: Node) -> Node:
    (learner,) = context.assembly.of_kind("student")
    labellers = [spec.path for spec in labelling(context.assembly.built, phase)]

    def count_rows() -> int:
        return _count_different_rows(context, phase, len(rows_of(data.rows)))

    def build(run: RunInfo, folder: Path) -> None:
        sampling = replace(run, untrained=student.path / MODEL)
        examples = run.component(corpus.path, Corpus).kdtool_examples(sampling)
        rows = pack(run, phase, labellers, examples, context.tokenizer_of(learner, run))
        enough = _until(rows, _labels(rows_of(data.rows), count_rows()), run)
        write_rows(enough, folder, run.hook.owner(corpus.path))

    suffix = f"-{student.label}" if student.label else ""
    return Node(
        kind="rows",
        label=f"self-{phase.name}{suffix}",
        title=f"sampling from the untrained student ({phase.name}{suffix})",
        where=context.store,
        parts={
            "corpus": context.part(corpus.path),
            **packing_parts(context, phase, learner, labellers),
            "rows to train on": _count_rows(context, phase),
        },
        inputs={"texts": data.texts, "student's rows": data.rows, "student": student},
        build=build,
        texts=data.texts,
        total=lambda _: count_rows(),
        phase=phase if labellers else None,
        seed=student.seed,
        unit="rows",
    )


def _labels(rows: StoredRows, count: int) -> int:
    """Return the number of tokens in the first `count` rows that are learned: labelled, after one of their document."""
    return sum(_labels_of(rows[index]) for index in range(count))


def _labels_of(row: Row) -> int:
    same = (before == after for before, after in pairwise(row.document))
    return sum(bool(labelled) and joined for labelled, joined in zip(row.labelled[1:], same, strict=True))


def _until(rows: Iterable[Row], wanted: int, run: RunInfo) -> Iterator[Row]:
    """Yield rows until they have as many labels as `wanted`."""
    for number, row in enumerate(rows, 1):
        yield row
        run.hook.kdtool_progress(run, number, None)
        wanted -= _labels_of(row)
        if wanted <= 0:
            return


_SEED = 0


def add_teachers(context: Context, graph: Graph) -> tuple[dict[str, Materials], tuple[TrainedModel, ...]]:
    """Add the phases that train teachers; each continues with the weights that the one before left of the same teacher.

    Records the last node of each teacher in `context.adapted`, so that later nodes use its weights.

    Returns:
        The data of each phase, by its name, and the phases of each teacher.
    """
    recipe = context.assembly.recipe
    (student,) = context.assembly.of_kind("student")
    materials: dict[str, Materials] = {}
    trained: dict[str, list[tuple[PhaseSpec, Node]]] = {}
    named = ((phase, trained_teacher(recipe, phase)) for phase in adapting_phases(recipe))
    phases = [(phase, spec.path) for phase, spec in named if spec]
    authors = taken_by(corpora_of(context, recipe.shared), context.assembly.shared)
    if not {teacher for _, teacher in phases} & set(authors):  # no trained teacher writes the recipe's text
        add_texts(context, graph, recipe.shared)
    for phase, teacher in phases:
        data = materials[phase.name] = add_rows(context, graph, phase, teacher, Shapes(student, {}))
        node = graph.add(phase_node(context, teacher, _SEED, phase, data, partial(_open, teacher), {}, {}))
        context.adapted[teacher] = node
        trained.setdefault(teacher, []).append((phase, node))
    return materials, tuple(
        TrainedModel(teacher, _SEED, tuple(phase for phase, _ in made), tuple(node for _, node in made))
        for teacher, made in trained.items()
    )


def _open(teacher: str, run: RunInfo) -> Runtime:
    return run.component(teacher, Teacher).kdtool_trainable(run)
