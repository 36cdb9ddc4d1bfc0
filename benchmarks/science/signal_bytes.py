"""Does a teacher pay, and how much quality does a byte of its signal buy? A registered study of a pruned student.

    python benchmarks/science/signal_bytes.py [--out FOLDER] [--record FILE] [--seeds 0 1] [--set KEY=VALUE]

The questions, the arms, the tests and what is left out are registered in docs/science/signal-bytes.md. What the students of
a seed got on each document is added to the record when all arms of the seed are measured; seeds in it are not trained again.
So the study can continue on another machine with the published record, which is the default, or begin again with an empty
one. An interrupted call continues down to a step of a training. Nothing is compared before the record holds all five seeds.
`--set executor.use=ray` trains side by side.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import kdtool
from kdtool._results.comparisons import compare, interval, read_items
from kdtool_transformers import open_model
from scipy.stats import t as student_t
from study import JsonLines, written
from trainings import signal_bytes

RECIPES = Path(__file__).with_suffix("")
RECORD = Path(__file__).resolve().parents[2] / "docs/science/signal-bytes-items.jsonl"
SEEDS = 5
DOCUMENTS = 200
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
    """Train and measure the seeds that are missing; with all of them, print tables and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("signal-bytes"), help="folder of runs and results")
    parser.add_argument("--record", type=Path, default=RECORD, help="file of what is measured, to go on with")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=range(SEEDS), choices=range(SEEDS), help="by default all"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the trainings' recipes"
    )
    options = parser.parse_args()
    record = JsonLines(options.record)
    missing = [seed for seed in options.seeds if not record.where(seed=seed)]
    if missing:
        record.add(*_train_and_measure(options.out, missing, dict(each.split("=", 1) for each in options.set)))
    if lacking := [seed for seed in range(SEEDS) if not record.where(seed=seed)]:
        print(f"not measured yet: seeds {', '.join(map(str, lacking))}; nothing is compared before all are")
        return
    figures = Figures(record, options.out / "items")
    tests = {measure: figures.tests(measure) for measure in MEASURES}
    arms = {arm: figures.arm(arm) for arm in ARMS}
    found = {
        "arms": arms,
        "tests": {measure: [_plain(test) for test in of_measure] for measure, of_measure in tests.items()},
        "gains": {measure: gains(of_measure, arms) for measure, of_measure in tests.items()},
    }
    written(json.dumps(found, indent=1), options.out / "signal-bytes.json")
    print("\n".join(_table_of_arms(arms)))
    for measure, of_measure in tests.items():
        print("\n".join([*_table_of_tests(of_measure), *_table_of_gains(measure, found["gains"][measure])]))


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


def gains(tests: Sequence[Test], arms: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return for each signal its gain over `control` as a share of that of `states`, and this share per byte per token."""
    differences = {test.found.arm: test.found.difference for test in tests if test.found.against == "control"}
    shares = {arm: difference / differences["states"] for arm, difference in differences.items()}
    return {
        arm: {"share": share, "share_per_byte_per_token": share / arms[arm]["bytes_per_token"]}
        for arm, share in shares.items()
    }


def _train_and_measure(out: Path, seeds: list[int], changes: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the record's lines of these seeds, each with a measurement of one student by document."""
    folders = {"out": out / "runs", "store": out / "store"}
    recovered = kdtool.run(RECIPES / "recover.yaml", **folders)
    (model,) = (arm.path for arm in recovered.arms if arm.arm == "student")
    settings, texts = {"student.model": str(model), "seeds": seeds, **changes}, None
    for recipe in dict.fromkeys(recipe for recipe, _ in ARMS.values()):
        trained = kdtool.run(RECIPES / f"{recipe}.yaml", settings, **folders)
        texts = texts or _held_out(trained, model, out / "held-out.jsonl")
        names = {name: arm for arm, (of_recipe, name) in ARMS.items() if of_recipe == recipe}
        students = {f"{names[arm.arm]}-{arm.seed}": arm for arm in trained.arms if arm.arm in names}
        measured = kdtool.evaluate(
            [f"{name}={arm.path}" for name, arm in students.items()],
            recipe=RECIPES / "measure.yaml",
            settings={"corpus.files": [str(texts)]},
            name=f"measure-{recipe}",
            **folders,
        )
        for found in measured.measurements:
            if found.name in MEASURES and found.subject in students:
                arm = students[found.subject]
                done = arm.phases["train"]
                size = signal_bytes(trained) if arm.arm == "student" else None
                yield {
                    "arm": names[arm.arm],
                    "seed": arm.seed,
                    "steps": done.steps,
                    "tokens": done.tokens,
                    "bytes_per_token": size and round(size / done.tokens, 2),
                    "measurement": found.name,
                    **{key: getattr(found, key) for key in ("unit", "higher_is_better", "transform")},
                    "items": {
                        item: [round(total, 5), weight] for item, (total, weight) in read_items(found.items).items()
                    },
                }


def _held_out(trained: kdtool.Results, student: Path, target: Path) -> Path:
    """Write 200 files that no arm learns from: those of the split `test`, then the last ones of the training text."""
    (text,) = (stage.path for stage in trained.stages if stage.name == "text")
    test, train = ((text / f"{split}.jsonl").read_text(encoding="utf-8").splitlines() for split in ("test", "train"))
    unused = train[-(DOCUMENTS - len(test)) :]
    tokenizer = open_model(student).tokenizer
    before = sum(len(tokenizer.encode(json.loads(line)["text"])) for line in train[: -len(unused)])
    assert before > trained.recipe["rows"]["maximum_tokens"], "the rows reach the files that are held out"
    lines = [json.dumps({**json.loads(line), "split": "test"}) + "\n" for line in [*test, *unused]]
    target.write_text("".join(lines), encoding="utf-8")
    return target.absolute()


class Figures:
    """Figures of all arms, computed from the record as `kdtool run` computes them; `folder` is for files of items."""

    def __init__(self, record: JsonLines, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._record, self._folder = record, folder

    def tests(self, measure: str) -> list[Test]:
        """Compare the study's pairs of arms, paired over documents and seeds."""
        found = [self._compare(measure, *pair) for pair in PAIRS]
        values = [p_value(comparison) for comparison in found]
        return [Test(*parts) for parts in zip(found, values, holm(values), strict=True)]

    def arm(self, arm: str) -> dict[str, Any]:
        """Return an arm's steps by seed, its signal's bytes per token, and its means with their intervals."""
        lines = self._record.where(arm=arm, measurement=MEASURES[0])
        measured = {measure: self._measurements(measure, arm) for measure in MEASURES}
        means = {
            name: [fmean(each.value for each in found), *(interval(found) or ())] for name, found in measured.items()
        }
        return {"steps": [line["steps"] for line in lines], "bytes_per_token": lines[0]["bytes_per_token"], **means}

    def _compare(self, measure: str, arm: str, against: str) -> kdtool.Comparison:
        sides = (self._measurements(measure, name) for name in (arm, against))
        found = compare(arm, against, list(zip(*sides, strict=True)))
        assert found is not None
        return found

    def _measurements(self, measure: str, arm: str) -> list[kdtool.Measurement]:
        return [
            self._measurement(self._record.where(measurement=measure, arm=arm, seed=seed)[0]) for seed in range(SEEDS)
        ]

    def _measurement(self, line: Mapping[str, Any]) -> kdtool.Measurement:
        items = self._folder / f"{line['measurement']}.{line['arm']}-{line['seed']}.items.jsonl"
        rows = [{"item": item, "sum": total, "weight": weight} for item, (total, weight) in line["items"].items()]
        items.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        about = {key: line[key] for key in ("unit", "higher_is_better", "transform")}
        mean = sum(row["sum"] for row in rows) / sum(row["weight"] for row in rows)
        value = exp(mean) if line["transform"] == "exp" else mean
        return kdtool.Measurement(line["measurement"], line["arm"], value=value, n=len(rows), items=items, **about)


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


def _table_of_arms(arms: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| arm | steps | bytes per token | " + " | ".join(f"{measure} (95 %)" for measure in MEASURES) + " |"
    yield "|---|---|---|---|---|"
    for arm, found in arms.items():
        means = (f"{mean:.4g} ({low:.4g} to {high:.4g})" for mean, low, high in (found[each] for each in MEASURES))
        steps = " to ".join(f"{each:,}" for each in sorted({min(found["steps"]), max(found["steps"])}))
        yield f"| {arm} | {steps} | {found['bytes_per_token'] or 0:,} | {' | '.join(means)} |"
    yield ""


def _table_of_tests(tests: Sequence[Test]) -> Iterator[str]:
    yield f"| {tests[0].found.measurement} | difference (95 %) | p | p by Holm |"
    yield "|---|---|---|---|"
    for test in tests:
        found = test.found
        shown = "+.2%" if found.relative else "+.4f"
        difference, low, high = (format(each, shown) for each in (found.difference, found.low, found.high))
        pair = f"{found.arm} − {found.against}"
        values = (f"{p:.4f}" if p >= 0.0001 else "< 0.0001" for p in (test.p, test.corrected))
        yield f"| {pair} | {difference} ({low} to {high}) | {' | '.join(values)} |"
    yield ""


def _table_of_gains(measure: str, found: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    yield f"| {measure} | share of the gain from exact states | per byte per token |"
    yield "|---|---|---|"
    for arm, gain in found.items():
        yield f"| {arm} | {gain['share']:.1%} | {gain['share_per_byte_per_token']:.3%} |"
    yield ""


if __name__ == "__main__":
    main()
