"""Checks before a run makes anything: components that refuse, text that gives no row, licences, keys and folders.

`kdtool check` and `kdtool run` share them, and show all that they find at once. Components refuse a missing library,
nothing to measure on, or a model that cannot be exported. Text and packers that give no row to train on are refused before
the student is built, by `check` before anything is made.

Licences are those of components whose weights, text or signals end up in the student, judged before anything is loaded. A
student has weights (its own, and those in `derives_from`), its corpora's text, and the signals of the teachers that its
losses learn from. Controls and plain cross-entropy use nothing of a teacher.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from kdtool._assembly.assemble import Assembly
from kdtool._assembly.built import Built
from kdtool._assembly.checks import adapting_phases, taken_by
from kdtool._assembly.signals import labelling, weighs
from kdtool._assembly.trust import find_marked
from kdtool._contract.component import KEY_VARIABLE, Component
from kdtool._contract.data import Example, Split
from kdtool._contract.evaluation import Evaluator
from kdtool._contract.licences import LicenceTerms, Licensed, Objection, Transfer, judge_terms
from kdtool._contract.run_info import Estimate, Hooks, RunForecast, RunInfo
from kdtool._contract.sources import Packer, Teacher
from kdtool._errors import AuthenticationError, PluginError, Problem, RecipeError, ServiceError, UsageError
from kdtool._plugins.hooks import describe, owner_of, using
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import ComponentSpec, PhaseSpec, acknowledgements, of_kind, problem_at
from kdtool._run.comparability import refuse_uneven_trainers
from kdtool._run.context import Context
from kdtool._run.graph import Node
from kdtool._run.stages.data import corpora_of, pack, shares_of
from kdtool._run.stages.terms import other_templates, plain_terms
from kdtool._run.stages.text import Counts, StoredTexts, gather
from kdtool._text.terminal import count_of, dollars


def preflight(
    context: Context,
    run: RunInfo,
    *,
    licensed: bool = True,
    but: Collection[str] = (),
    complete: set[str] | None = None,
) -> None:
    """Refuse at once all that the recipe or this machine lacks; add licences, if `licensed`, and identities to the context.

    Except in a forecast, which estimates everything, a line shows the cost of answers. `but` and `complete` are those of
    `refuse`.

    Raises:
        AuthenticationError: a key is missing.
        RecipeError: with all problems. Nothing is fetched if there are any.
        ServiceError: see `identify`.
    """
    problems, assembly = dict[Problem, None](), context.assembly
    if licensed:
        with _gather(assembly, problems):
            context.licences = licences_of(assembly)
    run = replace(run, licences=context.licences)
    with _gather(assembly, problems):
        refuse(assembly, run, "start", but=but, complete=complete)
    with _gather(assembly, problems):
        refuse_uneven_trainers(assembly)
    if not (problems or context.forecast):
        with _gather(assembly, problems):
            _show_price(context, run)
    with _gather(assembly, problems), suppress(ServiceError) if problems else nullcontext():
        identify(context, replace(run, offline=run.offline or bool(problems)))
    if assembly.of_kind("student"):
        with _gather(assembly, problems), suppress(ServiceError) if problems or context.forecast else nullcontext():
            try_packers(context, run)
    for name in context.hooks.implementing("kdtool_describe") if problems else ():
        with _gather(assembly, problems), suppress(ServiceError):
            context.hooks.component(name, Component).kdtool_describe(run)
    if problems:
        raise RecipeError([*problems])


def look(assembly: Assembly) -> Iterable[Problem]:
    """Return the problems that a forecast's `preflight` finds in a part of a recipe."""
    with TemporaryDirectory() as scratch:
        context = replace(Context.of(assembly, Path(scratch), Path(scratch)), forecast=True)
        try:
            preflight(context, replace(context.info(), stage="check", say=lambda _: None), licensed=False)
        except RecipeError as error:
            return error.problems
    return ()


@contextmanager
def _gather(assembly: Assembly, problems: dict[Problem, None]) -> Iterator[None]:
    """Add the problems that the block raises, except at keys that have one: most are the same in other words."""
    known = {problem.key for problem in problems}
    try:
        with refusals_with_places(assembly):
            yield
    except UsageError as error:
        if isinstance(error, RecipeError) and owner_of(error) is None:
            problems |= {problem: None for problem in error.problems if problem.key not in known}
        else:
            problems[Problem("", describe(error))] = None


def unwritable(run: Path, store: Path) -> Iterator[str]:
    """Yield a line for each reason why nothing can, or should, be written into the folders of a run and its store."""
    for folder in (run, store):
        there = next(each for each in (folder, *folder.parents) if each.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            yield f"{folder} cannot be written: {there} is {'read-only' if there.is_dir() else 'a file'}; choose another"
        for link in folder.rglob("*") if folder == run else folder.glob("*"):
            if link.is_symlink() and (link.is_dir() or (link.parent == folder and not link.exists())):
                yield f"{link} is a link; expected a folder or nothing, since runs write and delete there; remove it"


def missing_keys(assembly: Assembly) -> Iterator[str]:
    """Yield a line for each variable with a key that the recipe names, for a component that needs none by default."""
    for built in assembly.built.values():
        for each in find_marked(built.config, built.spec.key):
            if each.mark == KEY_VARIABLE and each.default is None and not os.environ.get(each.value, "").strip():
                yield f"{as_written(each.key)}: {each.value} is not set; export it with the key"


def most_picodollars(estimate: Estimate) -> int:
    """Return the most that a part can cost."""
    return estimate.picodollars if estimate.most_picodollars is None else estimate.most_picodollars


def _show_price(context: Context, run: RunInfo) -> None:
    """Show what the answers of teachers that are a service will cost, without those to text that is not there yet."""
    teachers = context.assembly.of_kind("teacher").values()
    services = [each for each in teachers if isinstance(each, Teacher) and each.answer_cache_key is not None]
    estimates: list[Estimate] = []
    for hooks, built in _implementing(context.assembly, "kdtool_estimate") if services else ():
        if built.spec.kind in {"corpus", "filter"} or built.component in services:
            component = hooks.component(built.spec.path, Component)
            with suppress(ServiceError):  # text that is not on this machine yet
                estimates += component.kdtool_estimate(replace(run, offline=True), RunForecast()) or ()
    if lacks := dict.fromkeys([*missing_keys(context.assembly), *(each.lacks for each in estimates if each.lacks)]):
        raise AuthenticationError("; ".join(lacks))
    if expected := sum(each.picodollars for each in estimates):
        most = dollars(sum(map(most_picodollars, estimates)), up=True)
        context.assembly.complain(f"paid answers: {dollars(expected)} expected, at most {most}")


def refuse(
    assembly: Assembly,
    run: RunInfo,
    when: Literal["start", "text", "student"],
    kind: str = "",
    *,
    but: Collection[str] = (),
    complete: set[str] | None = None,
) -> None:
    """Have every component, or every one of a `kind`, `but` some, check what it needs: `kdtool_check` at this time.

    `complete` are components with settings that lack nothing and are not asked again; added to.

    Raises:
        RecipeError: with all that is refused, each at the component that refuses.
    """
    problems: dict[Problem, None] = {}
    complete = set() if complete is None else complete
    for hooks, built in _implementing(assembly, "kdtool_check"):
        settings = repr((built.spec.use, built.config))
        if kind in {"", built.spec.kind} and built.spec.path not in but and settings not in complete:
            refused = tuple(_problems(hooks, built.spec.path, run, when))
            complete |= set() if refused else {settings}
            problems |= {problem_at(assembly.recipe, built.spec.key, text): None for text in refused}
    if problems:
        raise RecipeError(list(problems))


def identify(context: Context, run: RunInfo) -> None:
    """Add the identities of all components to `context.identities`, each asked once.

    A forecast leaves out those of models and data that are not on this machine.

    Raises:
        RecipeError: with all components that refuse, or that lack a file, each at its key.
        ServiceError: one is not on this machine and cannot be fetched.
    """
    problems: dict[Problem, None] = {}
    absent: ServiceError | None = None
    for hooks, built in _implementing(context.assembly, "kdtool_identity"):
        name = built.spec.path
        try:
            if name not in context.identities:
                context.identities[name] = hooks.component(name, Component).kdtool_identity(run) or {}
        except ServiceError as error:
            absent = error
        except (UsageError, FileNotFoundError) as error:
            owner, message = owner_of(error) or built.owner, describe(error)  # a student may ask its teacher
            if isinstance(error, FileNotFoundError):
                message = f"{owner}: there is no file {error.filename or error}"
            key = context.assembly.built_for().get(owner.name, built).spec.key
            problems[problem_at(context.assembly.recipe, key, message)] = None
    if problems:
        raise RecipeError(list(problems))
    if absent and not context.forecast:
        raise absent


@contextmanager
def refusals_with_places(assembly: Assembly) -> Iterator[None]:
    """Give the refusal of a component the place of its key, or of the setting that its message begins with.

    Raises:
        RecipeError: a component raised a UsageError.
    """
    try:
        yield
    except RecipeError:
        raise
    except UsageError as error:
        owner = owner_of(error)
        blamed = [built for built in assembly.built.values() if built.owner == owner]
        if not blamed:
            raise
        spec, message = blamed[0].spec, describe(error)
        key, (setting, _, rest) = spec.key, message.removeprefix(f"{spec.path}.").partition(": ")
        if setting in spec.options:
            key, message = (*key, setting), rest
        settings = {as_written((*spec.key, name)): value for name, value in error.settings.items()}
        raise RecipeError([replace(problem_at(assembly.recipe, key, message), settings=settings)]) from error


def _implementing(assembly: Assembly, hook: str) -> Iterator[tuple[Hooks, Built]]:
    """Yield all components with a hook: the shared ones once, those of a phase in each phase of each arm."""
    phases = [phase for own in (*assembly.arms.values(), adapting_phases(assembly.recipe)) for phase in own]
    for phase in (None, *phases):
        hooks, built = assembly.hooks(phase), assembly.built_for(phase)
        names = (name for name in hooks.implementing(hook) if phase is None or name not in assembly.shared)
        yield from ((hooks, built[name]) for name in names)


def _problems(hooks: Hooks, name: str, run: RunInfo, when: Literal["start", "text", "student"]) -> Iterator[str]:
    try:
        found = hooks.component(name, Component).kdtool_check(run, when)
    except UsageError as error:
        yield str(error)
    else:
        yield from found or ()


_FIRST = 1000
"""Documents that `check` reads at most in search of a first row."""


def try_packers(context: Context, run: RunInfo) -> None:
    """Call every packer with the student's tokenizer and no text, so that one that does not suit is refused at once."""
    (student,) = context.assembly.of_kind("student")
    tokenizer = context.tokenizer_of(student, run)
    for packer in context.assembly.of_kind("packer"):
        if any(True for _ in context.hooks.component(packer, Packer).kdtool_rows(run, (), tokenizer)):
            raise PluginError(f"{context.hooks.owner(packer)} returned rows without any text; expected none")


def try_corpora(context: Context, run: RunInfo) -> Mapping[str, int]:
    """Make the first row of every phase, except from text that is derived from other components, without filters.

    Evaluators check the recipe's text where it is short enough to be read whole. Returns its documents by split then; {} of
    longer text, and if no evaluator reads it.

    Raises:
        KdtoolError: as a run that gathers and packs the text; nothing is fetched.
    """
    for phase in context.assembly.arms["student"]:
        if (examples := _first(context, run, phase.sources)) is not None:
            _require_row(context, run, phase, examples, _FIRST)
    whole = tuple(_first(context, run, context.assembly.recipe.shared) or ())
    if not 0 < len(whole) < _FIRST:
        return {}
    evaluators = context.assembly.of_kind("evaluator")
    unaware = [name for name, each in evaluators.items() if isinstance(each, Evaluator) and not each.reads_text]
    refuse(context.assembly, replace(run, texts=_FirstTexts(whole)), "text", "evaluator", but=unaware)
    return Counter(example.split for example in whole) if len(unaware) < len(evaluators) else {}


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
    kind, message = "packer", f"yields no rows from {count_of(train, 'document')}; is there enough text for one?"
    if not train:
        kind, message = "corpus", "gives no text of the split 'train'"
    key = of_kind(phase.sources, kind)[0].key
    raise RecipeError([problem_at(context.assembly.recipe, key, message, "check its settings, and the filters")])


KEY = "terms_acknowledged"
"""The recipe's key for acknowledged licences: component → licence."""
_OWN: Mapping[str, Transfer] = {"student": "weights", "corpus": "text"}
"""Transfer into the student from a component of that kind in the recipe."""


def licences_of(assembly: Assembly) -> tuple[Licensed, ...]:
    """Return the terms of the components, with their transfers into the student.

    Raises:
        RecipeError: terms are not acknowledged or forbid this use, or an acknowledged component is not in the recipe.
    """
    names = _names(assembly)
    agreed = {names.get(name, name): licence for name, licence in acknowledgements(assembly.recipe.data.get(KEY))}
    taken: dict[str, set[Transfer]] = {}
    for name, transfer in _transfers(assembly):
        taken.setdefault(names.get(name, name), set()).add(transfer)
    licences, objections = judge_terms(_terms(assembly), taken, agreed)
    if objections:
        raise RecipeError([_problem(assembly, objection) for objection in objections])
    return licences


def _terms(assembly: Assembly) -> dict[str, LicenceTerms]:
    """Return the terms of the components that have any, by path."""
    terms: dict[str, LicenceTerms] = {}
    for name, built in assembly.built_for().items():
        with using(built.owner, "its licence_terms"):
            licence: object = built.component.licence_terms
            if not isinstance(licence, LicenceTerms | None):
                raise PluginError(f"licence_terms must be LicenceTerms or None, but is {licence!r}")
            if licence is not None:
                terms[name] = licence
    return terms


def _names(assembly: Assembly) -> dict[str, str]:
    """Return components by the names that a recipe may use: paths, keys, and short names that only one of them has."""
    specs = assembly.recipe.lasting
    short = [spec.name for spec in specs]
    found = {spec.name: spec.path for spec in specs if short.count(spec.name) == 1}
    return found | {name: spec.path for spec in specs for name in (".".join(map(str, spec.key)), spec.path)}


def _transfers(assembly: Assembly) -> Iterator[tuple[str, Transfer]]:
    for spec in assembly.recipe.lasting:
        if spec.kind in _OWN:
            yield spec.path, _OWN[spec.kind]
            yield from assembly.shared[spec.path].derives_from.items()
    for phase in assembly.arms["student"]:
        for term in plain_terms(assembly, phase):
            text = all(need == {"text"} for need in term.needs)
            taken = (*term.teachers, *taken_by(term.teachers, assembly.shared)) if weighs(term.weight) else ()
            yield from ((name, "text" if text else "signals") for name in taken)


def _problem(assembly: Assembly, objection: Objection) -> Problem:
    keys = {spec.path: spec.key for spec in assembly.recipe.lasting}
    key = keys[objection.component] if objection.component else (KEY, *objection.line.split("."))
    settings = {f"{KEY}.{objection.component}": objection.agree} if objection.agree else {}
    return replace(problem_at(assembly.recipe, key, objection.message, objection.remedy), settings=settings)
