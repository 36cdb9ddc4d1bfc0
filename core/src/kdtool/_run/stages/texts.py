"""The text of a run as a node of its graph, and the answers of teachers that it needs.

`text` defines its format, and `gathering` reads the corpora.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from kdtool._assembly.checks.dependencies import taken_by
from kdtool._contract.component import Component
from kdtool._contract.run_info import RunInfo
from kdtool._contract.teacher import Teacher
from kdtool._recipe.model import ComponentSpec, of_kind
from kdtool._run.answer_cache import Ask, cache_answers
from kdtool._run.context import Context
from kdtool._run.distributed import has_ended
from kdtool._run.divided import divide_answers, open_teacher, take_part
from kdtool._run.fingerprint import fingerprint
from kdtool._run.graph import Graph, Node
from kdtool._run.lent_answers import lent_file
from kdtool._run.stages.text import write_texts

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
