"""Checks of a recipe as a whole: whether its components fit together, in all their requirements on each other.

Signals of losses are checked in `signals`. Here are the other checks: components derived from others
(`Component.derives_from`), shares of corpora, phases that fine-tune a teacher, optimizers, and validators.

Phases that fine-tune a teacher run before all others, regardless of their order: a recipe that extends another can only
append phases.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress

from kdtool._assembly.built import Built, BuiltRecipe
from kdtool._assembly.requirements import check_requirements
from kdtool._assembly.signals import check_columns, check_on_policy, check_signals, check_weightings, check_weights
from kdtool._contract.component import Component
from kdtool._contract.sources import Corpus, Teacher
from kdtool._contract.training import Trainer
from kdtool._errors import Problem
from kdtool._plugins.hook_specs import implements
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, of_kind
from kdtool._recipe.yaml import KeyPath
from kdtool._text.names import did_you_mean


def check_teacher_training(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield mistakes in the recipe's phases that train a teacher."""
    phases = adapting_phases(parts.recipe)
    if phases and phases == parts.recipe.phases:
        yield parts.problem(("train",), "trains no student", "add a phase without `trains`")
    for phase in phases:
        key, teacher = (*phase.key, "trains"), trained_teacher(parts.recipe, phase)
        if teacher is None:
            names = [spec.name for spec in of_kind(parts.recipe.shared, "teacher")]
            hint = did_you_mean(str(phase.trains), names, what="teachers", shown=20)
            yield parts.problem(key, f"{phase.trains!r} is not a teacher of this recipe", hint)
            continue
        built = parts.built[teacher.key]
        if missing := [name for name in _NEEDED if not implements(built.loaded.cls, name)]:
            message = f"{built.owner} cannot be trained: it does not implement {' and '.join(missing)}"
            remedy = "use a teacher whose weights are opened on this machine, or leave this phase out"
            yield parts.problem(key, message, remedy)
        for loss in phase.losses:
            if parts.component(loss).needs:
                message = f"needs a teacher, but this phase trains the teacher {phase.trains!r} only on text"
                yield parts.problem(loss.key, message, "use a loss that needs none, or train the student here")


_NEEDED = ("kdtool_trainable", "kdtool_load_weights")


def adapting_phases(recipe: Recipe) -> tuple[PhaseSpec, ...]:
    """Return the phases that train a teacher, in recipe order."""
    return tuple(phase for phase in recipe.phases if phase.trains is not None)


def trained_teacher(recipe: Recipe, phase: PhaseSpec) -> ComponentSpec | None:
    """Return the teacher of the recipe that a phase trains; None where it is missing."""
    teachers = of_kind(recipe.shared, "teacher")
    return next((teacher for teacher in teachers if phase.trains in {teacher.name, teacher.path}), None)


def check_dependencies(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the sources that are missing, circular, or unable to give what is taken of them."""
    specs = {spec.path: spec for spec in parts.recipe.lasting}
    components: dict[str, Component] = {path: parts.component(spec) for path, spec in specs.items()}
    for path, spec in specs.items():
        for name, transfer in components[path].derives_from.items():
            source, message, remedy = components.get(name), "", "name a teacher, or a corpus"
            if source is None:
                kinds = {"teacher", "corpus"} if transfer == "text" else {"teacher"}
                there = [other for other, known in specs.items() if known.kind in kinds and other != path]
                message = f"takes {transfer} of {name!r}, which is missing"
                remedy = did_you_mean(name, there, what="there are")
            elif path in taken_by([path], components):
                message = f"takes {transfer} of {name}, which takes something of it in turn"
                remedy = "let one of them begin"
            elif transfer == "text" and isinstance(source, Teacher):
                if "text" not in source.offers:
                    offers = ", ".join(sorted(source.offers)) or "nothing"
                    message = f"takes text of {name} ({specs[name].use}), which offers {offers}"
                    remedy = "name a teacher that answers prompts"
            elif transfer == "text" and not isinstance(source, Corpus):
                message = f"takes text of {name}, which is a {specs[name].kind}"
            if message:
                yield parts.problem(spec.key, message, remedy)
    if (reference := parts.recipe.reference) and not is_measurable(components[reference.path]):
        remedy = "name a model that answers or has probabilities, by its plugin and settings"
        yield parts.problem(reference.key, "cannot be measured: it is the student itself, or offers nothing", remedy)


def taken_by(names: Iterable[str], components: Mapping[str, Component]) -> tuple[str, ...]:
    """Return the sources of the named components, and the sources of those in turn, each name once."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        component = components.get(waiting.pop(0))
        taken = [name for name in (component.derives_from if component else ()) if name not in found]
        found.update(dict.fromkeys(taken))
        waiting += taken
    return tuple(found)


def is_measurable(teacher: Component) -> bool:
    """Return whether evaluators measure a teacher: a model other than the student that offers logits or text."""
    if not isinstance(teacher, Teacher) or teacher.initial_student is not None or teacher.derives_from:
        return False
    return bool({"text", "logits"} & teacher.offers)


def check_optimizers(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the optimizers that a trainer ignores, and the trainer's settings that an optimizer replaces."""
    pairs = ((phase.trainer, phase.optimizer) for phase in parts.phases if phase.trainer and phase.optimizer)
    for trainer, optimizer in {
        (trainer.key, optimizer.key): (trainer, optimizer) for trainer, optimizer in pairs
    }.values():
        yield from _check(parts, trainer, optimizer)


def _check(parts: BuiltRecipe, trainer: ComponentSpec, optimizer: ComponentSpec) -> Iterator[Problem]:
    component: Trainer = parts.component(trainer)
    if component.optimizer_settings is None:
        message = f"is not used by the trainer {trainer.use!r}, which has its own optimizer"
        yield parts.problem(optimizer.key, message, "leave `optimizer` out, or use another trainer, such as `standard`")
    for setting in component.optimizer_settings or ():
        if setting in trainer.options:
            key = as_written(optimizer.key)
            message = f"belongs to the trainer's own optimizer, which `{key}` replaces"
            remedy = f"set `{key}.{setting}` if {optimizer.use!r} has this setting; else leave one of them out"
            yield parts.problem((*trainer.key, setting), message, remedy)


def check_validation(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the evaluators that a trainer asks, and the teachers that an evaluator asks, that the recipe lacks."""
    evaluators, teachers = (of_kind(parts.recipe.shared, kind) for kind in ("evaluator", "teacher"))
    trainers = {phase.trainer.key: phase.trainer for phase in parts.phases if phase.trainer}
    asked = [
        (spec, parts.component(spec).validators, "evaluator", [e.name for e in evaluators])
        for spec in trainers.values()
    ]
    asked += [(spec, parts.component(spec).asks, "teacher", [t.path for t in teachers]) for spec in evaluators]
    for spec, names, kind, known in asked:
        for name in dict.fromkeys(names):
            if name not in known:
                hint = did_you_mean(name, known, what=f"{kind}s of this recipe") or f"add it to `{kind}s`"
                yield parts.problem(spec.key, f"asks the {kind} {name!r}, which is not in this recipe", hint)


def check_shares(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield mistakes in the shares of the recipe's corpora, and of each phase's own."""
    components = {spec.path: parts.component(spec) for spec in of_kind(parts.recipe.lasting, "corpus")}
    sources = (parts.recipe.shared, *(phase.sources for phase in parts.recipe.phases))
    groups = [of_kind(specs, "corpus") for specs in sources]
    for corpora in {tuple(spec.key for spec in group): group for group in groups}.values():
        taken = taken_by([spec.path for spec in corpora], components)  # those give no text themselves
        yield from _check_sum(parts, [spec for spec in corpora if spec.path not in taken])


def _check_sum(parts: BuiltRecipe, corpora: Sequence[ComponentSpec]) -> Iterator[Problem]:
    shares = {spec.name: spec.share for spec in corpora if spec.share is not None}
    for spec in corpora if shares else ():
        if spec.share is None:
            remedy = "give every corpus its share of the text, or none: then they are put together whole"
            yield parts.problem(spec.key, f"needs a share, since {', '.join(shares)} has one", remedy)
    total = math.fsum(shares.values())
    if len(shares) == len(corpora) > 0 and not math.isclose(total, 1, abs_tol=1e-6):
        scaled = ", ".join(f"{name}: {{share: {share / total:.3g}}}" for name, share in shares.items())
        message = f"the shares sum to {total:g}, not to 1"
        yield parts.problem(corpora[0].key[:-1], message, f"in the same proportion: {scaled}")


_CHECKS = (
    check_teacher_training,
    check_signals,
    check_on_policy,
    check_optimizers,
    check_dependencies,
    check_shares,
    check_columns,
    check_weightings,
    check_weights,
    check_requirements,
    check_validation,
)


def check_components(parts: BuiltRecipe, *, whole: bool) -> Iterator[Problem]:
    """Yield the problems that every check finds; unless the recipe is `whole`, each ends at a component that is missing."""
    for check in _CHECKS:
        with nullcontext() if whole else suppress(KeyError):
            yield from check(parts)


def validators_of(recipe: Recipe, phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> list[ComponentSpec]:
    """Return the recipe's evaluators that the phase's trainer asks."""
    trainer = built[phase.trainer.key].component if phase.trainer else None
    names = trainer.validators if isinstance(trainer, Trainer) else ()
    return [spec for spec in of_kind(recipe.shared, "evaluator") if spec.name in names]
