"""What a recipe requires of the student: `require: {humaneval.pass@1: ">= 0.70"}`, read, checked, and held against results.

A key is EVALUATOR.MEASUREMENT, or the measurement's name alone where that begins so. A condition is a comparison with a
number (`>= 0.70`), with a share of a teacher's value (`>= 90% of teacher`), or `better than control`, which holds where the
95 % interval of the difference says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import ge, gt, le, lt
from statistics import fmean
from typing import TYPE_CHECKING, Any

from kdtool._contract.evaluation import Measurement
from kdtool._errors import Problem, TargetMissedError, UsageError
from kdtool._recipe.model import ARMS, Recipe, of_kind, problem_at
from kdtool._text.did_you_mean import did_you_mean

if TYPE_CHECKING:
    from kdtool._assembly.built import Built
    from kdtool._contract.reporting import Comparison, Requirement, Results

__all__ = ["held_against", "refuse_missed", "requirement_problems"]

_SIGNS: Mapping[str, Callable[[float, float], bool]] = {">=": ge, "<=": le, ">": gt, "<": lt}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BOUND = re.compile(rf"(?P<sign>[<>]=?)\s*(?P<number>{_NUMBER})\s*(?:%\s*of\s+(?P<arm>\S+))?")
_BETTER = re.compile(r"better\s+than\s+(?P<arm>\S+)")
_FORMS = '">= 0.70" (or >, <=, <), ">= 90% of teacher", or "better than control"'


@dataclass(frozen=True)
class _Condition:
    """`sign` is "" for "better than"; `arm` is "" for a comparison with a plain number."""

    sign: str
    number: float
    arm: str


def requirement_problems(recipe: Recipe, _: Mapping[Any, Built]) -> Iterator[Problem]:
    """Yield what is wrong with `require`, as far as it can be known before anything was measured."""
    required = recipe.data.get("require")
    if required is None or required is False:
        return
    if not isinstance(required, Mapping):
        yield problem_at(recipe, ("require",), "is a mapping of measurements to conditions", f"conditions: {_FORMS}")
        return
    evaluators = [spec.name for spec in of_kind(recipe.shared, "evaluator")]
    for key, text in _wanted(required).items():
        evaluator, dot, name = key.partition(".")
        condition = _read(text)
        if not dot or not name or evaluator not in evaluators:
            hint = did_you_mean(evaluator, evaluators, what="evaluators of this recipe") or "add `evaluators: [...]`"
            message = "names no measurement of this recipe's evaluators: write EVALUATOR.MEASUREMENT"
            yield problem_at(recipe, ("require", key), message, hint)
        elif condition is None:
            yield problem_at(recipe, ("require", key), f"{text!r} is no condition", f"write for example {_FORMS}")
        elif condition.arm and condition.arm not in (others := _others(recipe, teachers_only=bool(condition.sign))):
            hint = did_you_mean(condition.arm, others, what="there are") or "there is none"
            yield problem_at(recipe, ("require", key), f"compares with {condition.arm!r}, which is not there", hint)


def held_against(
    recipe: Mapping[str, Any],
    measured: Mapping[str, Sequence[Measurement]],
    students: Sequence[str],
    comparisons: Sequence[Comparison],
) -> list[Requirement]:
    """Hold the student's values, means over its seeds, against what the recipe requires.

    Args:
        recipe: the recipe's data.
        measured: what each evaluator measured, by its short name.
        students: the names of the student's subjects, one a seed.
        comparisons: of all arms.
    """
    found = []
    for key, text in _wanted(recipe.get("require")).items():
        evaluator, _, name = key.partition(".")
        own = [one for one in measured.get(evaluator, ()) if one.subject in students]
        named = [one for one in own if one.name in {name, key}]
        condition = _read(text)
        if condition is None or not named:
            names = ", ".join(dict.fromkeys(one.name for one in own)) or "none of the student"
            found.append(_outcome(key, text, None, False, f"was not measured; {evaluator} measured: {names}"))
        else:
            wanted = named[0].name, "student", condition.arm
            compared = [one for one in comparisons if (one.measurement, one.arm, one.against) == wanted]
            found.append(_held(key, text, fmean(one.value for one in named), condition, compared))
    return found


def refuse_missed(results: Results) -> None:
    """End a finished run, whose results are kept, where the student missed what the recipe requires.

    Raises:
        UsageError: a required measurement does not exist.
        TargetMissedError: one was missed.
    """
    from kdtool._contract.reporting import where

    missed = [one for one in results.requirements if not one.met]
    if not missed:
        return
    text = "; ".join(f"{one.measurement} {one.text}" for one in missed)
    message = f"required: {text}. Everything is kept; {where(results)}"
    raise UsageError(message) if any(one.value is None for one in missed) else TargetMissedError(message, results)


def _wanted(required: Any) -> dict[str, str]:
    return {key: str(text) for key, text in (required or {}).items() if text is not False and text is not None}


def _read(text: str) -> _Condition | None:
    if found := _BETTER.fullmatch(text.strip()):
        return _Condition("", 0.0, found["arm"])
    if found := _BOUND.fullmatch(text.strip()):
        return _Condition(found["sign"], float(found["number"]), found["arm"] or "")
    return None


def _others(recipe: Recipe, *, teachers_only: bool) -> list[str]:
    """Return the arms that a condition may name: teachers, and, where no share is asked for, controls."""
    teachers = [spec.path for spec in of_kind(recipe.shared, "teacher")]
    controls = [ARMS[key] for key in recipe.control.match] if recipe.control and not teachers_only else []
    return [*controls, *teachers]


def _held(key: str, text: str, value: float, condition: _Condition, compared: Sequence[Comparison]) -> Requirement:
    if not condition.arm:
        met = _SIGNS[condition.sign](value, condition.number)
        return _outcome(key, text, value, met, f"is {value:.4g}{_by(met, condition, value, '')}")
    if not compared:
        return _outcome(key, text, value, False, f"is {value:.4g}, and was not compared with {condition.arm}")
    from kdtool._text.markdown import signed_difference

    (found,) = compared
    if not condition.sign:
        low, high = (signed_difference(bound, relative=found.relative) for bound in (found.low, found.high))
        shown = f"95 % interval of the difference {low} to {high}"
        met = found.verdict == "better"
        words = "better than" if met else "not shown to be better than" if found.verdict != "worse" else "worse than"
        return _outcome(key, text, value, met, f"is {value:.4g}, {words} {condition.arm} ({shown})")
    if found.share is None:
        reason = "a share needs a measurement that begins at zero and of which more is better, and a teacher above zero"
        return _outcome(key, text, value, False, f"is {value:.4g}, but has no share of {condition.arm}: {reason}")
    share = 100 * found.share[0]
    met = _SIGNS[condition.sign](share, condition.number)
    return _outcome(key, text, value, met, f"is {share:.4g}% of {condition.arm}{_by(met, condition, share, ' points')}")


def _by(met: bool, condition: _Condition, value: float, unit: str) -> str:
    return "" if met else f", {abs(condition.number - value):.3g}{unit} off {condition.sign} {condition.number:g}"


def _outcome(key: str, condition: str, value: float | None, met: bool, text: str) -> Requirement:
    from kdtool._contract.reporting import Requirement

    return Requirement(key, condition, value, met, text)
