"""Text and packers that give no row to train on: refused before the student is built, by `check` before anything is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from kdtool._assembly.checks.dependencies import taken_by
from kdtool._assembly.checks.token_columns import labelling
from kdtool._contract.corpus import Packer
from kdtool._contract.data import Example, Split
from kdtool._contract.evaluation import Evaluator
from kdtool._contract.run_info import RunInfo
from kdtool._errors import PluginError, RecipeError
from kdtool._recipe.model import ComponentSpec, PhaseSpec, of_kind, problem_at
from kdtool._run.context import Context
from kdtool._run.graph import Node
from kdtool._run.preflight.refusals import refuse
from kdtool._run.stages.counts import Counts
from kdtool._run.stages.gathering import gather
from kdtool._run.stages.rows import pack
from kdtool._run.stages.templates import other_templates
from kdtool._run.stages.text import StoredTexts
from kdtool._run.stages.texts import corpora_of, shares_of

_FIRST = 1000
"""Documents that `check` reads at most in search of a first row."""


def try_packers(context: Context, run: RunInfo) -> None:
    """Call every packer with the student's tokenizer and no text, so that one that does not suit is refused at once."""
    (student,) = context.assembly.of_kind("student")
    tokenizer = context.tokenizer_of(student, run)
    for packer in context.assembly.of_kind("packer"):
        if any(True for _ in context.hooks.component(packer, Packer).kdtool_rows(run, (), tokenizer)):
            raise PluginError(f"{context.hooks.owner(packer)} returned rows without any text; expected none")


def try_corpora(context: Context, run: RunInfo) -> None:
    """Make the first row of every phase, except from text that is derived from other components, without filters.

    Evaluators check the recipe's text where it is short enough to be read whole.

    Raises:
        KdtoolError: as a run that gathers and packs the text; nothing is fetched.
    """
    for phase in context.assembly.arms["student"]:
        if (examples := _first(context, run, phase.sources)) is not None:
            _require_row(context, run, phase, examples, _FIRST)
    whole = tuple(_first(context, run, context.assembly.recipe.shared) or ())
    if 0 < len(whole) < _FIRST:
        evaluators = context.assembly.of_kind("evaluator").items()
        unaware = [name for name, each in evaluators if isinstance(each, Evaluator) and not each.reads_text]
        refuse(context.assembly, replace(run, texts=_FirstTexts(whole)), "text", "evaluator", but=unaware)


@dataclass(frozen=True)
class _FirstTexts:
    """A `TextSource` on examples in memory."""

    read: Sequence[Example]

    def examples(self, split: Split) -> Iterator[Example]:
        """Yield the examples of one split."""
        return (example for example in self.read if example.split == split)


def _first(context: Context, run: RunInfo, sources: Sequence[ComponentSpec]) -> Iterator[Example] | None:
    """Return the first examples of the corpora among `sources`; None where these are derived from other components."""
    corpora = corpora_of(context, sources)
    if taken_by(corpora, context.assembly.shared):
        return None
    shares = shares_of(sources, corpora)
    found = gather(run, corpora, (), shares, Counts(corpora, shares))
    return (example for _, example in islice(found, _FIRST))


def refuse_empty_text(context: Context, texts: Node) -> None:
    """Refuse the recipe's text, which is made, where a phase that trains on it would get no row.

    Raises:
        RecipeError: there is no text to train on, or not enough of it for a row.
    """
    run = context.info(texts=StoredTexts(texts.path))
    kinds = ("corpus", "filter")
    shared = [of_kind(context.assembly.recipe.shared, kind) for kind in kinds]
    for phase in context.assembly.arms["student"]:
        if [of_kind(phase.sources, kind) for kind in kinds] == shared:
            _require_row(context, run, phase, run.texts.examples("train"))


def _require_row(
    context: Context, run: RunInfo, phase: PhaseSpec, examples: Iterable[Example], most: int | None = None
) -> None:
    """Refuse `examples` without a row, or with a control but nothing that it can learn from.

    If there are `most` of them, text was cut there and a row may follow.
    """
    (student,) = context.assembly.of_kind("student")
    seen = train = 0

    def count() -> Iterator[Example]:
        nonlocal seen, train
        for example in examples:
            seen += 1
            if example.split == "train":
                train += 1
                yield example

    labellers = [spec.path for spec in labelling(context.assembly.built, phase)]
    run = replace(run, hook=context.assembly.hooks(phase))
    others = other_templates(context, phase, student)
    rows = pack(run, phase, labellers, count(), context.tokenizer_of(student, run), others)
    has_control, made, learned = context.assembly.recipe.control is not None, False, False
    for row in rows:
        made, learned = True, not has_control or any(row.labelled)
        if learned:
            break
    if learned or seen == most:
        return
    if made:
        message = f"learns without a teacher, but phase {phase.name!r} only has prompts without answers"
        raise RecipeError([problem_at(context.assembly.recipe, ("control",), message, "set `control: false`")])
    kind, message = "packer", f"yields no rows from {train:,} documents; is there enough text for one?"
    if not train:
        kind, message = "corpus", "gives no text of the split 'train'"
    key = of_kind(phase.sources, kind)[0].key
    raise RecipeError([problem_at(context.assembly.recipe, key, message, "check its settings, and the filters")])
