"""Rows of samples from the untrained student, for the controls of `control: {self: …}`.

A corpus samples while the packer asks for text, and stops once its rows have as many labelled tokens as the student's phase
trains on. Completions after a prompt leave tokens of a row without labels, so that these controls take more steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from kdtool._assembly.checks.token_columns import labelling
from kdtool._contract.corpus import Corpus
from kdtool._contract.data import Row
from kdtool._contract.run_info import RunInfo
from kdtool._contract.trainer import Trainer
from kdtool._recipe.model import ComponentSpec, PhaseSpec
from kdtool._run.context import Context
from kdtool._run.graph import Graph, Node
from kdtool._run.stages.row_files import StoredRows, write_rows
from kdtool._run.stages.rows import Materials, pack, packing_parts, rows_of
from kdtool._store.layout import MODEL


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
        run.hook.kdtool_progress(run, number)
        wanted -= _labels_of(row)
        if wanted <= 0:
            return
