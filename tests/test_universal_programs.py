"""Programs that answer every problem alike pass none of it, or the problem is listed here with the reason."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kdtool_evaluator_humaneval import HumanEval
from kdtool_evaluator_mbpp import MbppEvaluator
from kdtool_programs import PassAtK
from kdtool_testing import make_run
from universal_programs import collect_passed, need_sandbox

DATA = Path(os.environ.get("KDTOOL_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
SUITES: Mapping[str, tuple[type[PassAtK], dict[str, Any], int]] = {
    "HumanEval": (HumanEval, {}, 164),
    "HumanEval+": (HumanEval, {"plus": DATA / "evalplus" / "HumanEvalPlus-OriginFmt.jsonl.gz"}, 164),
    "MBPP, test": (MbppEvaluator, {"file": DATA / "mbpp" / "mbpp.jsonl", "split": "test"}, 500),
    "MBPP, train": (MbppEvaluator, {"file": DATA / "mbpp" / "mbpp.jsonl", "split": "train"}, 374),
    "MBPP, validation": (MbppEvaluator, {"file": DATA / "mbpp" / "mbpp.jsonl", "split": "validation"}, 90),
    "sanitized MBPP, test": (MbppEvaluator, {"file": DATA / "mbpp" / "sanitized-mbpp.json", "split": "test"}, 257),
    "sanitized MBPP, train": (MbppEvaluator, {"file": DATA / "mbpp" / "sanitized-mbpp.json", "split": "train"}, 120),
    "sanitized MBPP, validation": (
        MbppEvaluator,
        {"file": DATA / "mbpp" / "sanitized-mbpp.json", "split": "validation"},
        43,
    ),
    "MBPP+": (MbppEvaluator, {"plus": DATA / "evalplus" / "MbppPlus-OriginFmt.jsonl.gz"}, 378),
}
KNOWN = {
    "mbpp/404": "the minimum of two numbers: in all tests it is the first",
    "mbpp/698": "a dict sorted by its values is equal to the dict",
    "mbpp/816": "a cleared tuple is (), so a program that returns () is right",
    "mbpp/847": "a copy of a list is equal to the list",
    "mbpp/899": "all tests expect True",
}
"""Tests of MBPP that some such program passes, as published: the score keeps them, as that of other harnesses does."""
ALLCLOSE = """\
import numpy as np
def is_floats(x):
    return isinstance(x, float) or (isinstance(x, (list, tuple)) and all(isinstance(i, float) for i in x))
def assertion(out, exp, atol):
    exact_match = out == exp
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        assert np.allclose(out, exp, rtol=1e-07, atol=atol)
    else:
        assert exact_match
"""
RIGHT = {
    "HumanEval/21": "    return [x / 3 for x in xs]\n",
    "HumanEval/32": "    return -xs[0] / xs[1]\n",
    "mbpp/300": "def ratio(x, y):\n    return x / y if y else float('inf')\n",
    "mbpp/737": "import re\ndef has_vowel(text):\n    return re.search('[aeiou]', text)\n",
}


def humaneval_plus() -> list[dict[str, str]]:
    """Return two problems in the form of HumanEval+, with its ways to compare: floats in lists, and roots."""
    roots = "    for inp in [[[1, 2]], [[-3, 1]], [[4, -8]]]:\n        assert _poly(*candidate(*inp), inp) <= 0.0001\n"
    poly = "def _poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n"
    thirds = "    for xs, exp in [([1.5, 3], [0.5, 1]), ([1.0], [1 / 3])]:\n        assertion(candidate(xs), exp, 0)\n"
    tests = {
        "thirds": (21, f"{ALLCLOSE}\ndef check(candidate):\n{thirds}"),
        "root": (32, f"{poly}\ndef check(candidate):\n{roots}"),
    }
    return [
        {
            "task_id": f"HumanEval/{number}",
            "prompt": f'def {name}(xs):\n    """Do it."""\n',
            "entry_point": name,
            "canonical_solution": RIGHT[f"HumanEval/{number}"],
            "test": test,
        }
        for name, (number, test) in tests.items()
    ]


def mbpp_plus() -> list[dict[str, Any]]:
    """Return two problems in the form of MBPP+: infinities, and tests that compare and assert nothing."""
    dropped = (
        "def assertion(out, exp, atol):\n    if isinstance(out, bool):\n        exact_match = out == exp\n    else:\n"
        "        exact_match = exp == (out is not None)\n\n\ninputs = [['a'], ['b']]\nresults = [True, False]\n"
        "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(has_vowel(*inp), exp, 0)\n"
    )
    infinite = (
        f"{ALLCLOSE}\nfor inp, exp in [((1, 0), float('inf')), ((1, 4), 0.25)]:\n"
        "    assertion(ratio(*inp), exp, 1e-4)\n"
    )
    tests = {737: dropped, 300: infinite}
    return [
        {"task_id": number, "code": RIGHT[f"mbpp/{number}"], "prompt": "Do it.", "test": test, "test_list": []}
        for number, test in tests.items()
    ]


def passing(folder: Path, evaluator: PassAtK, count: int) -> dict[str, set[str]]:
    problems = evaluator.problems(make_run(folder))
    assert len(problems) == count
    return collect_passed(problems, evaluator.seconds, evaluator.limits.memory)


@pytest.mark.parametrize(("evaluator", "records"), [(HumanEval, humaneval_plus()), (MbppEvaluator, mbpp_plus())])
def test_such_programs_pass_no_test_of_evalplus_kind(
    evaluator: type[PassAtK], records: list[dict[str, Any]], tmp_path: Path
) -> None:
    need_sandbox()
    file = tmp_path / "plus.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    made = evaluator(evaluator.Config(plus=file))  # type: ignore[call-arg]
    assert passing(tmp_path, made, len(records)) == {}
    assert judge(made, tmp_path) == {f"{one.id} solved": True for one in made.problems(make_run(tmp_path))}


def judge(evaluator: PassAtK, folder: Path) -> dict[str, bool]:
    """Return whether the problems' own solutions pass."""
    from kdtool_programs import Sandbox, Task

    tasks = [
        Task(f"{one.id} solved", one.continued(one.solution), 60.0) for one in evaluator.problems(make_run(folder))
    ]
    with Sandbox() as sandbox:
        return {verdict.id: verdict.has_passed for verdict in sandbox.run(tasks)}


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_such_programs_pass_no_published_problem(suite: str, tmp_path: Path) -> None:
    need_sandbox()
    evaluator, settings, count = SUITES[suite]
    missing = [path for path in settings.values() if isinstance(path, Path) and not path.is_file()]
    if missing:
        pytest.skip(f"{missing[0]} is not here")
    found = passing(tmp_path, evaluator(evaluator.Config(**settings)), count)
    assert {name: programs for name, programs in found.items() if name not in KNOWN} == {}
