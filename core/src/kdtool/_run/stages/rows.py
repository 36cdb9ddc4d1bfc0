"""Data of a run as nodes of its graph: texts, rows and signals, of the recipe and of phases that have their own.

The formats are in `texts` and `rows`; that of signals is the cache's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdtool._assembly.checks.dependencies import taken_by
from kdtool._contract.corpus import Packer
from kdtool._contract.language_model import ModelFacts
from kdtool._contract.run_info import RunInfo
from kdtool._contract.signals import FIXED_AT_CAPTURE, SignalKind, SignalRequest
from kdtool._contract.teacher import Cache, Teacher
from kdtool._errors import PluginError
from kdtool._recipe.model import ComponentSpec, PhaseSpec, of_kind
from kdtool._run.answer_cache import remembering
from kdtool._run.context import Context
from kdtool._run.fingerprint import fingerprint
from kdtool._run.graph import Graph, Node, Stage
from kdtool._run.stages.annotations import annotated
from kdtool._run.stages.row_files import StoredRows, write_rows
from kdtool._run.stages.signals import from_teacher
from kdtool._run.stages.teacher_rows import Translation
from kdtool._run.stages.terms import plain_terms, teachers_asked, terms_of, want_of
from kdtool._run.stages.text import write_texts
from kdtool._run.tokenizer_of import tokenizer_of

__all__ = ["Materials", "add_data", "add_rows", "add_texts", "corpora_of", "rows_of", "try_packers"]

ANSWERS = "answers.sqlite"
"""The file in the store with what teachers were asked for texts."""


@dataclass(frozen=True)
class Materials:
    """What a phase trains on. `signals` are recorded ones by teacher; without them teachers run beside the student.

    `teacher_rows` are the rows for teachers that do not read the student's tokens.
    """

    texts: Node
    rows: Node
    facts: Mapping[str, ModelFacts]
    signals: Mapping[str, Node] = field(default_factory=dict)
    teacher_rows: Mapping[str, Node] = field(default_factory=dict)


def rows_of(node: Node) -> StoredRows:
    """Open the rows of an artefact."""
    return StoredRows(node.path, node.fingerprint)


def corpora_of(context: Context, sources: Iterable[ComponentSpec]) -> list[str]:
    """Return the corpora among `sources` that give text themselves, in recipe order."""
    corpora = [spec.path for spec in of_kind(sources, "corpus")]
    return [name for name in corpora if name not in taken_by(corpora, context.assembly.shared)]


def add_texts(context: Context, graph: Graph, sources: Iterable[ComponentSpec], label: str = "") -> Node:
    """Add the text of the corpora among `sources`, after the screens among them.

    Whoever's text they take takes part: a teacher that answers, a corpus that gives prompts and then no text itself.
    """
    sources = tuple(sources)
    corpora, screens = corpora_of(context, sources), [spec.path for spec in of_kind(sources, "screen")]
    taken = taken_by((*corpora, *screens), context.assembly.shared)
    shares = {spec.path: spec.share for spec in sources if spec.path in corpora and spec.share is not None}

    def build(run: RunInfo, folder: Path) -> None:
        speaking = {
            name: fingerprint("teacher", {**_speaker(context, name), "adapted": node and node.fingerprint})
            for name, node in voices.items()
        }
        with remembering(run, context.store.root / ANSWERS, speaking) if speaking else nullcontext(run) as asking:
            write_texts(asking, folder, corpora, screens, shares)

    parts: dict[str, Any] = {"components": [context.part(name) for name in (*corpora, *screens, *taken)]}
    if shares:
        parts["shares"] = list(shares.values())
    stage, teachers = Stage("text", label, unit="documents"), context.assembly.of_kind("teacher")
    voices = context.speaking(name for name in taken if name in teachers)
    return graph.add(Node(stage, context.store, True, parts, {}, build, teachers=voices))


def _speaker(context: Context, teacher: str) -> dict[str, Any]:
    """Return what the answers of a teacher follow from: all that stands for it, but where it says what is enough."""
    part, component = context.part(teacher), context.assembly.shared[teacher]
    if not isinstance(component, Teacher) or component.answer_cache_key is None:
        return {"component": part}
    return {
        **{key: part[key] for key in ("use", "class", "distribution")},
        "answer_cache_key": dict(component.answer_cache_key),
    }


def try_packers(context: Context, run: RunInfo) -> None:
    """Give every packer the student's tokenizer and nothing to pack, so that one that does not suit is refused at once."""
    (student,) = context.assembly.of_kind("student")
    tokenizer = tokenizer_of(context.hooks, student, run)
    for packer in context.assembly.of_kind("packer"):
        if any(True for _ in context.hooks.component(packer, Packer).kdtool_rows(run, (), tokenizer)):
            raise PluginError(f"{context.hooks.owner(packer)} gave rows without any text")


def add_data(context: Context, graph: Graph, facts: Mapping[str, ModelFacts]) -> dict[str, Materials]:
    """Add texts, rows and signals of every phase that trains the student; phases with the same sources share them.

    Args:
        context: the run.
        graph: gets the nodes.
        facts: shapes of the student (by its name) and of the teachers, for losses that ask for layers.
    """
    phases = context.assembly.arms["student"]
    (student,) = context.assembly.of_kind("student")
    found = {phase.name: add_rows(context, graph, phase, student, facts) for phase in phases}
    for phase in phases:
        own = found[phase.name]
        found[phase.name] = replace(own, teacher_rows=_add_translations(context, graph, phase, own))
    wants: dict[tuple[Node, str, str], list[tuple[PhaseSpec, SignalRequest]]] = {}
    for phase in phases:
        for cache in of_kind(phase.sources, "cache"):
            terms = terms_of(context, phase, facts)
            for teacher in teachers_asked(terms):
                own = found[phase.name]
                key = (own.teacher_rows.get(teacher, own.rows), cache.path, teacher)
                wants.setdefault(key, []).append((phase, want_of(context, phase, terms, teacher)))
    signals: dict[str, dict[str, Node]] = {}
    for (rows, recorder, teacher), wanted in wants.items():
        node = _add_signals(context, graph, rows, recorder, teacher, _joint([want for _, want in wanted]))
        for phase, _ in wanted:
            signals.setdefault(phase.name, {})[teacher] = node
    return {name: replace(own, signals=signals.get(name, {})) for name, own in found.items()}


def _add_translations(context: Context, graph: Graph, phase: PhaseSpec, own: Materials) -> dict[str, Node]:
    """Add the phase's rows in the tokenizers of teachers that do not read the student's tokens, by teacher."""
    asked = teachers_asked(plain_terms(context.assembly, phase))
    foreign = [name for name, found in context.vocabularies.items() if name in asked and not found.comparable]
    return {teacher: _add_translation(context, graph, own, teacher) for teacher in foreign}


def _add_translation(context: Context, graph: Graph, own: Materials, teacher: str) -> Node:
    (student,) = context.assembly.of_kind("student")
    stage = Stage("rows", "-".join(part for part in (own.rows.stage.label, teacher) if part), unit="rows")
    info = context.info(stage, context.folder)
    mine, theirs = (tokenizer_of(context.hooks, name, info) for name in (student, teacher))

    def build(run: RunInfo, folder: Path) -> None:
        translation = Translation(rows_of(own.rows), mine, theirs)
        write_rows(translation.rows(), folder, run.hook.owner(teacher))
        if translation.left_out:
            run.say(
                f"rows of {teacher}: {translation.left_out} documents are left out, its tokenizer changes their bytes"
            )

    parts = {"tokenizers": [[each.fingerprint, list(each.document_start)] for each in (mine, theirs)]}
    return graph.add(Node(stage, context.store, True, parts, {"rows": own.rows}, build, texts=own.texts))


def add_rows(
    context: Context, graph: Graph, phase: PhaseSpec, learner: str, facts: Mapping[str, ModelFacts]
) -> Materials:
    """Add texts and rows of a phase, for the tokenizer of the component that it trains."""
    texts = add_texts(context, graph, phase.sources, phase.name)
    (packer,), (student,) = of_kind(phase.sources, "packer"), context.assembly.of_kind("student")
    columns = {spec.path: context.assembly.shared[spec.path].columns for spec in of_kind(phase.sources, "annotator")}
    info = context.info(Stage("rows"), context.folder)
    tokenizer, usual = (tokenizer_of(context.hooks, name, info) for name in (learner, student))
    label = _label(context, phase, ("packer", "corpus", "screen", "annotator")) or texts.stage.label
    alike = (tokenizer.fingerprint, tokenizer.document_start) == (usual.fingerprint, usual.document_start)
    stage = Stage("rows", label if alike else phase.name, unit="rows")

    def build(run: RunInfo, folder: Path) -> None:
        examples = run.texts.examples("train")
        examples = annotated(run, examples, columns) if columns else examples
        rows = run.component(packer.path, Packer).kdtool_rows(run, examples, tokenizer)
        write_rows(rows, folder, run.hook.owner(packer.path))

    parts = {
        "packer": context.part(packer.path),
        "tokenizer": tokenizer.fingerprint,
        "start": list(tokenizer.document_start),
        "chat": tokenizer.chat_fingerprint,
        **({"annotators": [context.part(name) for name in columns]} if columns else {}),
    }
    rows = graph.add(Node(stage, context.store, True, parts, {"texts": texts}, build, texts=texts))
    return Materials(texts, rows, facts)


def _label(context: Context, phase: PhaseSpec, kinds: Iterable[str]) -> str:
    """Return the phase's name for what it has of its own, "" for what it takes from the recipe."""
    shared = {spec.key for spec in context.assembly.recipe.shared}
    return phase.name if any(spec.kind in kinds and spec.key not in shared for spec in phase.sources) else ""


def _add_signals(context: Context, graph: Graph, rows: Node, cache: str, teacher: str, want: SignalRequest) -> Node:
    """Add the signals of a teacher on rows, recorded once for all seeds, arms and phases."""
    label = (rows.stage.label, "" if cache == "signals" else cache, teacher)

    component = context.assembly.shared[cache]
    together = isinstance(component, Cache) and component.every_rank_records

    def record(run: RunInfo, folder: Path) -> int:
        offers: frozenset[SignalKind] = getattr(context.assembly.shared[teacher], "offers", frozenset())
        wanted = run.component(cache, Cache).kdtool_wanted(want, offers)
        source = from_teacher(run.hook, teacher, wanted, context.vocabularies.get(teacher))
        return run.component(cache, Cache).kdtool_record(run, rows_of(rows), source, folder)

    def build(run: RunInfo, folder: Path) -> None:
        made = record(run if together else replace(run, world=1), folder)
        if made != len(rows_of(rows)):
            raise PluginError(f"{run.hook.owner(cache)} recorded {made:,} of {len(rows_of(rows)):,} rows")

    def join(run: RunInfo, folder: Path) -> bool:
        record(run, folder)
        return True

    return graph.add(
        Node(
            stage=Stage("signals", "-".join(part for part in label if part), unit="rows"),
            where=context.store,
            shared=True,
            parts={
                "teacher": context.part(teacher),
                "cache": context.part(cache),
                "want": [sorted(want.kinds), list(want.layers), want.temperature],
            },
            inputs={"rows": rows},
            build=build,
            join=join if together else None,
            texts=rows.texts,
            total=lambda _: len(rows_of(rows)),
            teachers=context.speaking([teacher]),
        )
    )


def _joint(wants: list[SignalRequest]) -> SignalRequest:
    """Return what phases want together, at the temperature of those that want tokens."""
    kinds = frozenset(kind for want in wants for kind in want.kinds)
    layers = tuple(sorted({layer for want in wants for layer in want.layers}))
    temperatures = [want.temperature for want in wants if want.kinds & FIXED_AT_CAPTURE]
    return SignalRequest(kinds, layers, next(iter(temperatures), 1.0))
