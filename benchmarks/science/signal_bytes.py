"""Does a teacher pay, and how much quality does a byte of its signal buy? A registered study of a pruned student.

    python benchmarks/science/signal_bytes.py [--out FOLDER] [--seeds N]

The questions, the arms, the tests and what is left out are registered in docs/science/signal-bytes.md. The recipes in the
folder signal_bytes are run one after the other; a second call continues where the first one stopped, down to a step of a
training. `--seeds` takes the first N of the five seeds, for a look at the machinery: only five are the study.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import kdtool
from scipy.stats import t as student_t
from study import written
from trainings import signal_bytes

RECIPES = Path(__file__).with_suffix("")
SEEDS = 5
LEVEL = 0.05
MEASURES = ("perplexity", "line-completion.edit-similarity")
"""The primary and the secondary measurement; each is a separate family."""
ARMS = {
    "states": ("states", "student"),
    "sampled-20": ("sampled-20", "student"),
    "top-20": ("top-20", "student"),
    "control": ("states", "control"),
    "control-time": ("states", "control-time"),
    "control-self": ("sampled-20", "control-self"),
}
"""The recipe and the arm of each arm of the study."""
PAIRS = (
    ("states", "control"),
    ("states", "control-time"),
    ("states", "control-self"),
    ("sampled-20", "control"),
    ("top-20", "control"),
    ("sampled-20", "top-20"),
    ("states", "sampled-20"),
)
"""Compared arms: a signal with an arm without a teacher, or with another signal."""


class Test(NamedTuple):
    """One comparison: its estimate, its p-value, and the p-value after Holm's correction over its family."""

    found: kdtool.Comparison
    p: float
    corrected: float


def main() -> None:
    """Run what is missing, print tables and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("signal-bytes"), help="folder of runs; a second call continues"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, choices=range(2, SEEDS + 1), help="how many seeds")
    options = parser.parse_args()
    runs = _run_all(options.out, list(range(options.seeds)))
    results = {signal: kdtool.load(folder) for signal, folder in runs.items()}
    tests = {measure: _tests(runs, measure) for measure in MEASURES}
    found = {
        "seeds": options.seeds,
        "arms": {signal: _arms(result) for signal, result in results.items()},
        "bytes_per_token": {signal: _bytes_per_token(result) for signal, result in results.items()},
        "tests": {measure: [_plain(test) for test in of_measure] for measure, of_measure in tests.items()},
    }
    written(json.dumps(found, indent=1), options.out / "signal-bytes.json")
    print("\n".join(line for of_measure in tests.values() for line in _table(of_measure)))


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's correction (Scandinavian Journal of Statistics 6, 1979), in their order."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, greatest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        greatest = max(greatest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = greatest
    return corrected


def p_value(found: kdtool.Comparison) -> float:
    """Return the two-sided p-value of a difference, from its interval's bound on the side of zero.

    The interval is read as Student's with one degree of freedom fewer than seeds: at p = 0.05 it ends at zero.
    """
    freedom = found.seeds - 1
    bound = found.low if found.difference > 0 else found.high
    reach = abs(found.difference - bound)
    quantile = student_t.ppf(1 - LEVEL / 2, freedom)
    return float(2 * student_t.sf(abs(found.difference) / reach * quantile, freedom)) if reach else 0.0


def _run_all(out: Path, seeds: list[int]) -> dict[str, Path]:
    """Run all recipes that are not finished, and return the folders of the signals' runs."""
    recovered = kdtool.run(RECIPES / "recover.yaml", out=out / "runs", store=out / "store")
    (model,) = (arm.path for arm in recovered.arms if arm.arm == "student")
    settings = {"student.model": str(model), "seeds": seeds}
    names = dict.fromkeys(recipe for recipe, _ in ARMS.values())
    return {
        name: kdtool.run(RECIPES / f"{name}.yaml", settings, out=out / "runs", store=out / "store").folder
        for name in names
    }


def _tests(runs: Mapping[str, Path], measure: str) -> list[Test]:
    found = [_compare(runs, signal, other, measure) for signal, other in PAIRS]
    values = [p_value(comparison) for comparison in found]
    return [Test(*parts) for parts in zip(found, values, holm(values), strict=True)]


def _compare(runs: Mapping[str, Path], arm: str, against: str, measure: str) -> kdtool.Comparison:
    """Compare two arms of the study, of one run or of two, as `kdtool run` and `kdtool compare` do."""
    sides = [(runs[recipe], name) for recipe, name in (ARMS[arm], ARMS[against])]
    (folder, name), (other, other_name) = sides
    if folder == other:
        found, names = kdtool.load(folder).comparisons, (name, other_name)
    else:
        several = name != other_name
        found = kdtool.compare([folder, other], arms=sorted({name, other_name})).comparisons
        names = tuple(f"{side.name}/{its}" if several else side.name for side, its in sides)
    return next(c for c in found if (c.arm, c.against) == names and c.measurement == measure)


def _arms(results: kdtool.Results) -> dict[str, Any]:
    return {f"{value.arm}: {value.measurement}": [value.value, value.low, value.high] for value in results.values}


def _bytes_per_token(results: kdtool.Results) -> float | None:
    size = signal_bytes(results)
    tokens = results.arms[0].phases["train"].tokens
    return None if size is None else round(size / tokens, 2)


def _plain(test: Test) -> dict[str, Any]:
    found = test.found
    return {
        "arm": found.arm,
        "against": found.against,
        "values": [found.value, found.against_value],
        "difference": [found.difference, found.low, found.high],
        "relative": found.relative,
        "p": test.p,
        "p_holm": test.corrected,
    }


def _table(tests: Sequence[Test]) -> Iterator[str]:
    yield f"| {tests[0].found.measurement} | difference (95 %) | p | p by Holm |"
    yield "|---|---|---|---|"
    for test in tests:
        found = test.found
        bounds = f"{found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
        yield f"| {found.arm} − {found.against} | {bounds} | {test.p:.4f} | {test.corrected:.4f} |"
    yield ""


if __name__ == "__main__":
    main()
