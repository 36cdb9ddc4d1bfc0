"""Data of a run as nodes of its graph: text, rows and signals, of the recipe and of phases that have their own.

The formats are in `text` and `row_files`; that of signals is the cache's own. Text needs answers of teachers where a corpus
derives from one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from kdtool._assembly.checks import taken_by
from kdtool._assembly.signals import labelling
from kdtool._contract.component import Component
from kdtool._contract.data import Example, Row
from kdtool._contract.language_model import Tokenizer
from kdtool._contract.run_info import RunInfo
from kdtool._contract.signals import SignalKind, SignalRequest
from kdtool._contract.sources import Cache, Packer, Teacher
from kdtool._errors import PluginError
from kdtool._plugins.hooks import blame
from kdtool._recipe.model import ComponentSpec, PhaseSpec, of_kind
from kdtool._run.answers import Ask, cache_answers, lent_file
from kdtool._run.context import Context
from kdtool._run.graph import Graph, Node, fingerprint
from kdtool._run.ranks import divide_answers, has_ended, open_teacher, take_part
from kdtool._run.stages.row_files import StoredRows, Translation, annotate, write_rows
from kdtool._run.stages.students import Shapes
from kdtool._run.stages.terms import (
    asks_for_layers,
    from_teacher,
    join_requests,
    other_templates,
    plain_terms,
    refuse_other_templates,
    request_of,
    teachers_of_terms,
    terms_of,
)
from kdtool._run.stages.text import write_texts
from kdtool._text.terminal import count_of

ANSWERS = "answers.sqlite"
"""The file in the store with teachers' answers for texts."""


def corpora_of(context: Context, sources: Iterable[ComponentSpec]) -> list[str]:
    """Return the corpora among `sources` that yield text themselves, in recipe order."""
    corpora = [spec.path for spec in of_kind(sources, "corpus")]
    return [name for name in corpora if name not in taken_by(corpora, context.assembly.shared)]


def shares_of(sources: Iterable[ComponentSpec], corpora: Collection[str]) -> dict[str, float]:
    """Return the shares of `corpora`, which are among `sources`; none unless they are mixed."""
    return {spec.path: spec.share for spec in sources if spec.path in corpora and spec.share is not None}


def add_texts(context: Context, graph: Graph, sources: Iterable[ComponentSpec], label: str = "") -> Node:
    """Add the text of the corpora among `sources`, after the filters among them.

    It also depends on the components that these derive from: a teacher that answers, a corpus that holds prompts.
    """
    sources = tuple(sources)
    corpora, filters = corpora_of(context, sources), [spec.path for spec in of_kind(sources, "filter")]
    taken = taken_by((*corpora, *filters), context.assembly.shared)
    shares = shares_of(sources, corpora)
    teachers = context.weights_of(name for name in taken if name in context.assembly.of_kind("teacher"))

    computing = {name for name in teachers if computes(context.assembly.shared[name])}

    def build(run: RunInfo, folder: Path) -> None:
        divided = {name: partial(divide_answers, run, name) for name in computing if run.world > 1}
        is_lent = context.is_worker and len(computing) == len(teachers)
        lent = lent_file(context.store.root, node.fingerprint) if is_lent else None
        with reuse_answers(context, run, teachers, divided, lent) as asking:
            write_texts(asking, folder, corpora, filters, shares)

    def join(run: RunInfo, folder: Path) -> bool:
        take_part(folder, run.rank, partial(open_teacher, run), partial(has_ended, folder))
        return False

    components = [context.part(name) for name in (*corpora, *filters, *taken)]
    parts = {"components": components, "shares of the corpora": list(shares.values())}
    title = f"text, phase {label}" if label else "text"
    node = Node("text", label, title, context.store, parts, {}, build, teachers=teachers, unit="documents")
    return graph.add(replace(node, join=join if computing else None))


def computes(component: Component) -> bool:
    """Return whether a teacher answers with a model in its process: not a service, which may be paid."""
    return isinstance(component, Teacher) and not component.stores_answers and component.answer_cache_key is None


def reuse_answers(
    context: Context,
    run: RunInfo,
    teachers: Mapping[str, Node | None],
    divided: Mapping[str, Callable[[Ask], Ask]] = {},
    lent: Path | None = None,
) -> AbstractContextManager[RunInfo]:
    """Return the run with stored answers of teachers, by name with the node that trained each; missing ones are stored.

    Several processes answer what teachers in `divided` are asked. With `lent`, answers are in that file, which only this
    process opens.
    """
    if teachers:
        context.store.remote.open_answers()
    weights = {}
    for name, node in teachers.items():
        teacher = cast("Teacher", context.assembly.shared[name])
        trained = node.fingerprint if node else ""
        everything = {"component": context.part(name), "adapted": trained}
        if not teacher.stores_answers:
            weights[name] = fingerprint("teacher", everything) if teacher.answer_cache_key is None else trained
    if not weights:
        return nullcontext(run)
    return cache_answers(run, lent or context.store.root / ANSWERS, weights, divided, exclusive=lent is not None)


@dataclass(frozen=True)
class Wanted:
    """Signals that phases need of a teacher."""

    context: Context
    phases: tuple[PhaseSpec, ...]
    teacher: str
    shapes: Shapes

    def request(self) -> SignalRequest:
        """Return the signals that the phases need, of all seeds; a student that decides layers must be made."""
        return join_requests(
            request_of(self.context, phase, terms_of(self.context, phase, shapes), self.teacher)
            for phase in self.phases
            for shapes in self.shapes.of_all_seeds()
        )

    def request_ahead(self) -> SignalRequest:
        """Return the request for students as they are described: if they decide layers, these may differ."""
        return replace(self, shapes=replace(self.shapes, untrained={})).request()

    def parts(self) -> tuple[dict[str, Any], dict[str, Node]]:
        """Return parts and inputs of a recording: layers if they are known ahead, else the students that decide them."""
        described = self.request_ahead()
        parts: dict[str, Any] = {"signals": sorted(described.kinds), "temperature": described.temperature}
        losses = [asks_for_layers(self.context, phase, self.teacher) for phase in self.phases]
        if self.shapes.untrained and any(losses):
            students = {f"student {seed}": node for seed, node in self.shapes.untrained.items()}
            return {**parts, "losses on layers": losses}, students
        return {**parts, "layers": list(described.layers)}, {}


@dataclass(frozen=True)
class Recording:
    """Signals of a teacher that a cache records once, on rows."""

    node: Node
    rows: Node
    cache: str
    wanted: Wanted


@dataclass(frozen=True)
class Materials:
    """Data and signals of a phase.

    `recordings` are recorded signals by teacher; a teacher without one runs with the student. `teacher_rows` are the rows
    for teachers that do not read the student's tokens.
    """

    texts: Node
    rows: Node
    shapes: Shapes
    recordings: Mapping[str, Recording] = field(default_factory=dict)
    teacher_rows: Mapping[str, Node] = field(default_factory=dict)


def rows_of(node: Node) -> StoredRows:
    """Open the rows of an artefact."""
    return StoredRows(node.path, node.fingerprint)


def pack(
    run: RunInfo,
    phase: PhaseSpec,
    labellers: Sequence[str],
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    others: Mapping[str, Tokenizer] = {},
) -> Iterator[Row]:
    """Pack the examples into rows by the phase's packer, after its `labellers` have annotated them.

    Conversations that have other tokens with the `other_templates` of teachers are refused.
    """
    (spec,) = of_kind(phase.sources, "packer")
    packer = run.component(spec.path, Packer)
    examples = annotate(run, examples, labellers) if labellers else examples

    def render(example: Example, template: Tokenizer) -> Iterable[Row]:
        return packer.kdtool_rows(run, [example], template)

    if others:
        examples = refuse_other_templates(examples, tokenizer, others, render)
    return packer.kdtool_rows(run, examples, tokenizer)


def add_data(context: Context, graph: Graph, shapes: Shapes) -> dict[str, Materials]:
    """Add texts, rows and signals of every phase that trains the student; phases with the same sources share them."""
    phases = context.assembly.arms["student"]
    materials = {phase.name: add_rows(context, graph, phase, shapes.student, shapes) for phase in phases}
    for phase in phases:
        materials[phase.name] = _add_teacher_rows(context, graph, phase, materials[phase.name])
    learning: dict[tuple[Node, str, str], list[PhaseSpec]] = defaultdict(list)
    for phase in phases:
        data = materials[phase.name]
        for cache in of_kind(phase.sources, "cache"):
            for teacher in teachers_of_terms(plain_terms(context.assembly, phase)):
                learning[data.teacher_rows.get(teacher, data.rows), cache.path, teacher].append(phase)
    for (rows, cache_name, teacher), together in learning.items():
        wanted = Wanted(context, tuple(together), teacher, shapes)
        recording = Recording(graph.add(_recording(wanted, cache_name, rows)), rows, cache_name, wanted)
        for phase in together:
            recordings = {**materials[phase.name].recordings, teacher: recording}
            materials[phase.name] = replace(materials[phase.name], recordings=recordings)
    return materials


def _add_teacher_rows(context: Context, graph: Graph, phase: PhaseSpec, data: Materials) -> Materials:
    """Add the phase's rows in the tokenizers of teachers that do not read the student's tokens."""
    asked = teachers_of_terms(plain_terms(context.assembly, phase))
    foreign = [name for name, found in context.vocabularies.items() if name in asked and not found.comparable]
    return replace(data, teacher_rows={name: _add_translation(context, graph, data, name) for name in foreign})


def _add_translation(context: Context, graph: Graph, data: Materials, teacher: str) -> Node:
    (student,) = context.assembly.of_kind("student")
    student_tokenizer, teacher_tokenizer = (context.tokenizer_of(name) for name in (student, teacher))

    def build(run: RunInfo, folder: Path) -> None:
        translation = Translation(rows_of(data.rows), student_tokenizer, teacher_tokenizer)
        write_rows(translation.rows(), folder, run.hook.owner(teacher))
        if translation.left_out:
            left_out = count_of(translation.left_out, "document")
            run.say(f"rows of {teacher}: left out {left_out}, since its tokenizer changes the bytes")

    label = "-".join(filter(None, [data.rows.label, teacher]))
    parts = {
        "tokenizers": [[each.fingerprint, list(each.document_start)] for each in (student_tokenizer, teacher_tokenizer)]
    }
    return graph.add(_rows_node(context, label, parts, {"rows": data.rows}, build, data.texts))


def _rows_node(
    context: Context,
    label: str,
    parts: Mapping[str, Any],
    inputs: Mapping[str, Node],
    build: Callable[[RunInfo, Path], None],
    texts: Node,
) -> Node:
    title = f"tokenised rows ({label})" if label else "tokenised rows"
    return Node("rows", label, title, context.store, parts, inputs, build, texts=texts, unit="rows")


def add_rows(context: Context, graph: Graph, phase: PhaseSpec, learner: str, shapes: Shapes) -> Materials:
    """Add texts and rows of a phase, for the tokenizer of the component that it trains."""
    texts = add_texts(context, graph, phase.sources, phase.name)
    (packer,), (student,) = of_kind(phase.sources, "packer"), context.assembly.of_kind("student")
    tokenizers = [context.tokenizer_part(name) for name in (learner, student)]
    same_tokens = len({(part.get("tokenizer"), str(part.get("start of documents"))) for part in tokenizers}) == 1
    shared = {spec.key for spec in context.assembly.recipe.shared}
    replaced = {spec.kind for spec in phase.sources if spec.key not in shared}
    labellers = [spec.path for spec in labelling(context.assembly.built, phase)]
    special = not same_tokens or labellers or replaced & {"packer", "corpus", "filter"}
    label = phase.name if special else texts.label
    others = other_templates(context, phase, learner)

    def build(run: RunInfo, folder: Path) -> None:
        rows = pack(run, phase, labellers, run.texts.examples("train"), context.tokenizer_of(learner, run), others)
        write_rows(rows, folder, run.hook.owner(packer.path))

    parts = packing_parts(context, phase, learner, labellers)
    parts |= {f"chat template of {name}": other.chat_fingerprint for name, other in others.items()}
    node = _rows_node(context, label, parts, {"texts": texts}, build, texts)
    asked = dict.fromkeys({*labellers} & {*context.assembly.of_kind("teacher")})
    rows = graph.add(replace(node, phase=phase, teachers=asked) if labellers else node)
    return Materials(texts, rows, shapes)


def packing_parts(context: Context, phase: PhaseSpec, learner: str, labellers: Iterable[str]) -> dict[str, Any]:
    """Return the parts of the fingerprint of a phase's rows, for the tokenizer of `learner`."""
    (packer,) = of_kind(phase.sources, "packer")
    return {
        "packer": context.part(packer.path),
        **context.tokenizer_part(learner),
        "annotations": [_annotation_part(context, phase, name) for name in labellers],
    }


def _annotation_part(context: Context, phase: PhaseSpec, name: str) -> dict[str, Any]:
    """Return the part of a fingerprint for a component that labels text, without settings that do not change the labels."""
    key = getattr(context.assembly.built_for(phase)[name].component, "label_key", None)
    part = context.part(name, phase)
    return part if key is None else {**part, "config": key}


def _recording(wanted: Wanted, cache: str, rows: Node) -> Node:
    """Return the signals of a teacher on rows, recorded once for all seeds, arms and phases."""
    context, teacher = wanted.context, wanted.teacher
    parts, students = wanted.parts()
    sources = taken_by([teacher], context.assembly.shared)
    component = context.assembly.shared[cache]
    together = isinstance(component, Cache) and component.every_rank_records

    def record(run: RunInfo, folder: Path) -> int:
        offers: frozenset[SignalKind] = getattr(context.assembly.shared[teacher], "offers", frozenset())
        chosen = _signals_to_record(run, cache, wanted.request(), offers)
        source = from_teacher(run.hook, teacher, chosen, context.vocabularies.get(teacher))
        return run.component(cache, Cache).kdtool_record(run, rows_of(rows), source, folder)

    def build(run: RunInfo, folder: Path) -> None:
        made = record(run if together else replace(run, world=1), folder)
        if made != len(rows_of(rows)):
            raise PluginError(f"{run.hook.owner(cache)} recorded {made:,} of {len(rows_of(rows)):,} rows")

    def join(run: RunInfo, folder: Path) -> bool:
        record(run, folder)
        return True

    origin = [*filter(None, [rows.label, "" if cache == "signals" else cache])]
    return Node(
        kind="signals",
        label="-".join([*origin, teacher]),
        title=f"signals of {teacher}" + (f" ({', '.join(origin)})" if origin else ""),
        where=context.store,
        parts={
            "teacher": context.part(teacher),
            "cache": context.part(cache),
            "recorded": parts,
            **{f"source {name}": context.part(name) for name in sources},
        },
        inputs={"rows": rows, **students},
        build=build,
        join=join if together else None,
        texts=rows.texts,
        total=lambda _: len(rows_of(rows)),
        teachers=context.weights_of([teacher, *sources]),
        unit="rows",
    )


def _signals_to_record(run: RunInfo, cache: str, want: SignalRequest, offers: frozenset[SignalKind]) -> SignalRequest:
    with blame(run.hook.owner(cache), "records"):
        chosen: object = run.component(cache, Cache).records(want, offers)
        if not isinstance(chosen, SignalRequest):
            raise PluginError(f"records must return SignalRequest, but returned {chosen!r}")
        return chosen
