"""Requirements of the student, such as `require: {humaneval.pass@1: ">= 0.70"}`: checked, and checked against results.

A key is EVALUATOR.MEASUREMENT, or just the measurement's name if that begins with the evaluator's. A condition is a
comparison with a number (`>= 0.70`), with a share of a teacher's value (`>= 90% of teacher`), or `better than control`,
which holds if the 95 % interval of the difference is on the better side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from operator import ge, gt, le, lt
from statistics import fmean
from typing import Any, NamedTuple

from kdtool._assembly.built import BuiltRecipe
from kdtool._contract.component import Component
from kdtool._contract.evaluation import Comparison, Evaluator, Measurement
from kdtool._contract.reporting import Requirement, Results, where
from kdtool._errors import Problem, TargetMissedError, UsageError
from kdtool._recipe.model import REFERENCE, of_kind
from kdtool._text.names import did_you_mean
from kdtool._text.terminal import signed_difference

_SIGNS: Mapping[str, Callable[[float, float], bool]] = {">=": ge, "<=": le, ">": gt, "<": lt}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_CONDITION = re.compile(
    rf"\s*(?:(?P<sign>[<>]=?)\s*(?P<number>{_NUMBER})\s*(?:%\s*of\s+(?P<of>\S+))?|better\s+than\s+(?P<than>\S+))\s*"
)
_FORMS = '">= 0.70" (or >, <=, <), ">= 90% of teacher", or "better than control"'


class _Condition(NamedTuple):
    """`sign` is "" for "better than"; `arm` is "" for a comparison with a plain number."""

    sign: str
    bound: float
    arm: str


def check_requirements(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield mistakes in `require`, as far as they can be known before anything is measured."""
    recipe = parts.recipe
    evaluators = {spec.name: parts.built[spec.key].component for spec in of_kind(recipe.shared, "evaluator")}
    teachers = [spec.path for spec in of_kind(recipe.shared, "teacher")]
    opponents = [*(recipe.control.arms if recipe.control else ()), *([REFERENCE] if recipe.reference else ())]
    for key, text in _conditions(recipe.data.get("require")).items():
        evaluator, _, name = key.partition(".")
        condition, message, hint = _read(text), "", ""
        arms = teachers if condition and condition.sign else [*opponents, *teachers]
        if not name or evaluator not in evaluators:
            message = "does not name a measurement of this recipe's evaluators: write EVALUATOR.MEASUREMENT"
            hint = did_you_mean(evaluator, evaluators, what="evaluators of this recipe") or "add `evaluators: [...]`"
        elif unknown := _unknown(key, evaluator, evaluators[evaluator]):
            message, hint = f"is not a measurement of {evaluator!r}", unknown
        elif condition is None:
            message, hint = f"{text!r} is not a condition", f"write for example {_FORMS}"
        elif condition.arm and condition.arm not in arms:
            message = f"compares with {condition.arm!r}, which is not in this recipe"
            hint = did_you_mean(condition.arm, arms, what="there are") or "compare with a number"
        if message:
            yield parts.problem(("require", key), message, hint)


def checked_against(
    recipe: Mapping[str, Any],
    measured: Mapping[str, Sequence[Measurement]],
    students: Sequence[str],
    comparisons: Sequence[Comparison],
) -> list[Requirement]:
    """Compare the student's values, means over its seeds, with the recipe's requirements.

    Args:
        recipe: the recipe's data.
        measured: what each evaluator measured, by its short name.
        students: the names of the student's subjects, one a seed.
        comparisons: of all arms.
    """
    requirements = []
    for key, text in _conditions(recipe.get("require")).items():
        evaluator, _, name = key.partition(".")
        of_student = [measurement for measurement in measured.get(evaluator, ()) if measurement.subject in students]
        seeds = [measurement for measurement in of_student if measurement.name in {name, key}]
        condition = _read(text)
        if condition is None or not seeds:
            names = ", ".join(dict.fromkeys(measurement.name for measurement in of_student)) or "none of the student"
            outcome = f"was not measured; {evaluator} measured: {names}"
            requirements.append(Requirement(key, text, None, False, outcome))
        else:
            value, wanted = fmean(seed.value for seed in seeds), (seeds[0].name, "student", condition.arm)
            compared = (each for each in comparisons if (each.measurement, each.arm, each.against) == wanted)
            met, outcome = _judge(value, condition, next(compared, None))
            requirements.append(Requirement(key, text, value, met, f"is {outcome}"))
    return requirements


def refuse_missed(results: Results) -> None:
    """End a finished run, whose results are kept, if the student missed what the recipe requires.

    Raises:
        UsageError: a required measurement does not exist.
        TargetMissedError: one was missed.
    """
    missed = [requirement for requirement in results.requirements if not requirement.met]
    if missed:
        text = "; ".join(f"{requirement.measurement} {requirement.text}" for requirement in missed)
        message = f"required: {text}. Everything is kept; {where(results)}"
        is_unmeasured = any(requirement.value is None for requirement in missed)
        raise UsageError(message) if is_unmeasured else TargetMissedError(message, results)


def _unknown(key: str, evaluator: str, component: Component) -> str:
    """Return a suggestion for a measurement that the evaluator does not declare; "" if it does, or declares none."""
    declared = component.measurements if isinstance(component, Evaluator) else ()
    keys = [name if name.startswith(f"{evaluator}.") else f"{evaluator}.{name}" for name in declared]
    names = {key, key.removeprefix(f"{evaluator}.")}
    if not declared or any(fnmatchcase(name, pattern) for name in names for pattern in declared):
        return ""
    return did_you_mean(key, keys, what=f"measurements of {evaluator!r}")


def _conditions(required: Any) -> dict[str, str]:
    return {key: str(text) for key, text in (required or {}).items() if text is not False and text is not None}


def _read(text: str) -> _Condition | None:
    found = _CONDITION.fullmatch(text)
    return found and _Condition(found["sign"] or "", float(found["number"] or 0), found["of"] or found["than"] or "")


def _judge(value: float, condition: _Condition, compared: Comparison | None) -> tuple[bool, str]:
    """Return whether the student's value meets a condition, and the outcome in words."""
    sign, bound, arm = condition
    shown, unit = f"{value:.4g}", ""
    if arm:
        if compared is None:
            return False, f"{shown}, and was not compared with {arm}"
        if not sign:
            ends = compared.low, compared.high
            difference = signed_difference(compared.difference, *ends, relative=compared.relative)
            words = {"better": "better", "worse": "worse"}.get(compared.verdict, "not shown to be better")
            words += f", with too few items ({compared.items})," * (compared.outcome == "too few items")
            return compared.verdict == "better", f"{shown}, {words} than {arm} (difference {difference})"
        if compared.share is None:
            reason = '"% of" needs a higher-is-better metric with a zero point, and a teacher above zero'
            return False, f"{shown}, but cannot be a share of {arm}: {reason}"
        value, unit = 100 * compared.share[0], " points"
        shown = f"{value:.4g} % of {arm}"
    met = _SIGNS[sign](value, bound)
    return met, shown if met else f"{shown}, {abs(bound - value):.3g}{unit} off {sign} {bound:g}"
