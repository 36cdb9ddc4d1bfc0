"""Training: the phases of one arm with one seed, each an artefact that a killed process continues in.

`add_arm` adds those that train a student; `teachers` adds those that train a teacher, by the same `phase_node`. How one is
trained when its node is made is in `phase_training`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdtool._assembly.checks.validation import validators_of
from kdtool._contract.evaluation import Subject
from kdtool._contract.language_model import Runtime
from kdtool._contract.loss_terms import LossTerm
from kdtool._contract.reporting import ArmResult
from kdtool._contract.run_info import RunInfo
from kdtool._errors import PluginError
from kdtool._recipe.model import PhaseSpec
from kdtool._run.context import Context
from kdtool._run.graph import Graph, Node, Stage
from kdtool._run.open_subject import open_subject
from kdtool._run.stages.phase_training import PhaseTraining, read_history, read_trained
from kdtool._run.stages.rows import Materials
from kdtool._run.stages.terms import teachers_asked, terms_of
from kdtool._store.artefacts import Artefacts
from kdtool._store.atomic_files import write_beside
from kdtool._store.committed import commit
from kdtool._store.layout import MODEL

__all__ = ["Arm", "Learner", "MatchedTime", "add_arm", "phase_node"]

_STEPS_FILE = "steps.json"


@dataclass(frozen=True)
class Arm:
    """One arm with one seed: its phases in order, with their nodes. `nodes[-1]` holds the trained model."""

    arm: str
    seed: int
    phases: tuple[PhaseSpec, ...]
    nodes: tuple[Node, ...]

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.nodes[-1].path / MODEL

    @property
    def tokens(self) -> int:
        """The tokens that the arm trained on; its nodes are made."""
        return sum(read_trained(node.path).tokens for node in self.nodes)

    @property
    def seconds(self) -> float:
        """The seconds that the arm spent in training steps; its nodes are made."""
        return sum(read_trained(node.path).seconds for node in self.nodes)

    @property
    def share_of_steps(self) -> float:
        """What share of its phases' steps it took: less than 1 where a trainer ended early; its nodes are made."""
        return sum(read_trained(node.path).steps for node in self.nodes) / sum(phase.steps for phase in self.phases)

    def result(self) -> ArmResult:
        """Read what the arm's phases left; its nodes are made."""
        trained = {phase.name: read_trained(node.path) for phase, node in zip(self.phases, self.nodes, strict=True)}
        histories = {name: read_history(report.history) for name, report in trained.items()}
        return ArmResult(self.arm, self.seed, self.model, trained, histories)


@dataclass(frozen=True)
class MatchedTime:
    """Steps of a control that may train for as long as the student did, what the teacher cost (`charged`) in full."""

    student: Arm
    control: Arm
    charged: tuple[Node, ...]

    def steps(self, context: Context, phase: PhaseSpec, folder: Path) -> int:
        """Return the steps of a phase, its inputs being made; kept in its folder so that a resumed phase has the same."""
        kept = folder / _STEPS_FILE
        if kept.exists():
            return int(json.loads(kept.read_bytes())["steps"])
        seconds = self.student.seconds + sum(context.seconds(node) for node in self.charged)
        whole = self.control.seconds / self.control.share_of_steps
        steps = max(1, round(phase.steps * seconds / max(whole, 1e-9)))
        write_beside(kept, json.dumps({"steps": steps}))
        commit(folder, kept)
        return steps


@dataclass(frozen=True)
class Learner:
    """Whom a phase trains, and where the result is kept.

    Attributes:
        open: opens its model as it is before the phase.
        where: the run's own folder, or the store that runs share.
        shared: whether runs share it.
        inputs: the nodes that it is made from.
        parts: what else its model depends on.
        teachers: as in `Node`: for a teacher, whose model it begins with.
    """

    open: Callable[[RunInfo], Runtime]
    where: Artefacts
    shared: bool = False
    inputs: Mapping[str, Node] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    teachers: Mapping[str, Node | None] = field(default_factory=dict)


def add_arm(
    context: Context,
    graph: Graph,
    stage: Stage,
    initial: Node,
    materials: Mapping[str, Materials],
    matched: MatchedTime | None = None,
) -> Arm:
    """Add the phases of one arm with one seed, each on the model that the one before left.

    Args:
        context: the run.
        graph: gets the nodes.
        stage: arm and seed.
        initial: the untrained student.
        materials: what each phase trains on, by its name.
        matched: gives the steps where time is to be equal; None where the recipe's count.
    """
    phases = context.assembly.arms[stage.arm]
    nodes = [initial]
    for phase in phases:
        named = replace(
            stage, kind="phases", label=f"{stage.arm}-seed{stage.seed}-{phase.name}", unit="steps", phase=phase.name
        )
        student = Learner(
            partial(_open_student, context, nodes[-1].path / MODEL), context.own, inputs={"model": nodes[-1]}
        )
        nodes.append(graph.add(phase_node(context, named, phase, student, materials[phase.name], matched)))
    return Arm(stage.arm, stage.seed, phases, tuple(nodes[1:]))


def phase_node(
    context: Context,
    stage: Stage,
    phase: PhaseSpec,
    learner: Learner,
    materials: Materials,
    matched: MatchedTime | None = None,
) -> Node:
    """Return the node in which a phase trains the learner on the materials."""
    terms = terms_of(context, phase, materials.facts)
    validators = validators_of(context.assembly.recipe, phase, context.assembly.built)
    steps = partial(matched.steps, context, phase) if matched else lambda _: phase.steps
    training = PhaseTraining(context, phase, terms, materials, learner.open, steps)
    teachers = teachers_asked(terms)
    beside = [name for name in teachers if name not in materials.signals]
    judges = {name for spec in validators for name in getattr(context.assembly.shared[spec.path], "asks", ())}
    inputs = {**learner.inputs, "rows": materials.rows}
    inputs |= {f"signals of {name}": materials.signals[name] for name in teachers if name not in beside}
    inputs |= {f"rows of {name}": materials.teacher_rows[name] for name in teachers if name in materials.teacher_rows}
    if matched:
        inputs |= {"the student's time": matched.student.nodes[-1], "the control's time": matched.control.nodes[-1]}
        inputs |= {f"the time of {node.name}": node for node in matched.charged}
    return Node(
        stage=stage,
        where=learner.where,
        shared=learner.shared,
        parts={
            **learner.parts,
            "steps": phase.steps,
            "seed": stage.seed,
            "terms": {term.label: _plain(term, several=len(teachers) > 1) for term in terms},
            "components": {spec.path: context.part(spec.path, phase) for spec in phase.components},
            "teachers": {name: context.part(name) for name in sorted({*beside, *judges})},
            **({"validators": {spec.path: context.part(spec.path) for spec in validators}} if validators else {}),
            **(
                {"processes": context.world} if context.world > 1 else {}
            ),  # a step is as many rows as they show together
        },
        inputs=inputs,
        build=training.build,
        join=training.join,
        texts=materials.texts,
        total=steps,
        phase=phase,
        teachers={**learner.teachers, **context.speaking({*beside, *judges})},
    )


def _plain(term: LossTerm, *, several: bool) -> list[Any]:
    """Return what a term's result depends on, besides its loss and the phase's teacher; of `several`, which ones."""
    shared = [] if term.shared is None else [term.shared]
    asked = [dict(term.teachers)] if several and term.teachers else []
    return [repr(term.weight), term.temperature, list(term.layers), *shared, *asked]


def _open_student(context: Context, model: Path, run: RunInfo) -> Runtime:
    opened = open_subject(run, Subject("student", "student", model, run.seed))
    if opened is None or opened.value.model is None:
        (built,) = context.assembly.of_kind("student")
        raise PluginError(f"neither {run.hook.owner(built)} nor another component opens the student in {model}")
    return opened.value
