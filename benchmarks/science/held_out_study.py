"""What the studies beside this file share: one small setting, training by recipes, held-out figures, paired differences.

The setting: SmolLM2-135M teaches ten of its own thirty layers Python's standard library, in steps of one row of 256 tokens,
embeddings frozen, as the quickstart does. `HeldOut` measures students on files that none of them saw. `Trainings` trains
what is missing and remembers what was found in a JSON Lines file, so that a second call goes on. Comparisons are the core's
own, paired over documents, with 95 % intervals over these; each document counts with the sums of all seeds.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import mean, median
from typing import Any, ClassVar, Literal, NamedTuple

import kdtool
import torch
from kdtool._run.comparison import compare, read_items
from kdtool.testing import make_run
from kdtool_corpus_python_source import PythonSource
from kdtool_measuring import Item, held_out, measured
from kdtool_rows import NO_LABEL, collate
from kdtool_teacher_smollm2 import SmolLM2
from kdtool_transformers import TransformersModel, compute_dtype, open_model, pick_device
from torch import Tensor

DOCUMENTS, TOKENS = 32, 96
"""Held-out documents, and tokens of each that are predicted."""


class Measure(NamedTuple):
    """What is measured of a student on a document, per token."""

    unit: str
    higher_is_better: bool


MEASURES = {
    "nats": Measure("nats per token of the text", higher_is_better=False),
    "kl": Measure("nats per token, KL(teacher ‖ student)", higher_is_better=False),
    "agreement": Measure("fraction of tokens with the teacher's first choice", higher_is_better=True),
}


def command_line(description: str | None, modes: Collection[str], out: str) -> argparse.ArgumentParser:
    """Return the command line of a study: how much is measured, and where to."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--mode", choices=modes, default="hour", help="how much is measured")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of results; a second call goes on there")
    return parser


def arguments(description: str | None, seeds: Mapping[str, int], out: str) -> argparse.Namespace:
    """Read the command line of a study with a number of seeds for each mode. Each mode has a folder of its own.

    Several calls with different `--seeds` may share a folder at the same time; a last one without reports on all.
    """
    parser = command_line(description, seeds, out)
    parser.add_argument("--seeds", type=int, nargs="+", help="train these only; by default all of the mode")
    options = parser.parse_args()
    options.out /= options.mode
    options.seeds = options.seeds or range(seeds[options.mode])
    return options


class JsonLines:
    """Findings, one JSON object a line, in a file that is only ever added to, perhaps by several processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        path.touch()

    def add(self, *lines: Mapping[str, Any]) -> None:
        """Write findings down at once."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def where(self, **key: Any) -> list[dict[str, Any]]:
        """Return the findings that have these values."""
        lines = map(json.loads, self._path.read_text(encoding="utf-8").splitlines())
        return [line for line in lines if all(line.get(name) == value for name, value in key.items())]


def run_with_teacher(folder: Path, dtype: Literal["auto", "float32"]) -> kdtool.RunInfo:
    """Return a run's surroundings with the teacher and the corpus's texts, to use components without the engine."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus, teacher = PythonSource(PythonSource.Config()), SmolLM2(SmolLM2.Config(dtype=dtype))
    return make_run(folder, {"teacher": teacher}, list(corpus.kdtool_examples(make_run(folder))), offline=True)


def teacher_of(run: kdtool.RunInfo) -> TransformersModel:
    """Open the teacher's model."""
    runtime = kdtool.open_subject(run, kdtool.Subject("teacher", "teacher"))
    assert runtime is not None
    assert isinstance(runtime.value.model, TransformersModel)
    return runtime.value.model


def logits(model: TransformersModel, batch: kdtool.Batch) -> Tensor:
    """Return a model's logits of a batch in float32, [N, V], without gradient."""
    model.model.eval()
    with torch.no_grad():
        return model.head.logits(model.backbone(batch, kdtool.Want()).last).float()


def recipe(*, tokens: int, steps: int, train: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
    """Return a recipe of the setting: `tokens` different ones, one phase; `parts` are further keys of the recipe."""
    return {
        "corpus": {"use": "python-source"},
        "rows": {"use": "packed", "length": 256, "maximum_tokens": tokens},
        "teacher": {"use": "smollm2"},
        "student": {"use": "pruned", "layers": 10},
        "trainer": {
            "use": "standard",
            "batch": 1,
            "learning_rate": 1e-3,
            "compile": "off",
            "gradient_norms_every": 10_000,
        },
        "train": {"transforms": {"freeze": {}}, "steps": steps, **train},
        **parts,
    }


class HeldOut:
    """Test files that no student has seen, and what the teacher says about them."""

    def __init__(self, folder: Path) -> None:
        self._run = run_with_teacher(folder, "auto")

    @cached_property
    def teacher(self) -> TransformersModel:
        """The teacher; loads at first use."""
        return teacher_of(self._run)

    @cached_property
    def _told(self) -> list[tuple[kdtool.Batch, Tensor]]:
        """A batch a document, and the teacher's log-probabilities [N, V] (some 600 MB in all)."""
        found = []
        for document in held_out(self._run, "test", most=DOCUMENTS, characters=8 * TOKENS):
            ids = [self.teacher.tokenizer.end_of_text, *self.teacher.tokenizer.encode(document.text)][: TOKENS + 1]
            batch = collate([kdtool.Row(document.id, ids, [True] * len(ids), [0] * len(ids))])
            found.append((batch, logits(self.teacher, batch).log_softmax(-1)))
        return found

    def figures(self, student: TransformersModel) -> Iterator[tuple[str, dict[str, float], int]]:
        """Yield each document's id, its measures summed over its tokens, and their number."""
        for batch, theirs in self._told:
            own = logits(student, batch).log_softmax(-1)
            labels = batch.labels[batch.labels != NO_LABEL]
            sums = {
                "nats": -own.gather(-1, labels[:, None]).sum(),
                "kl": (theirs.exp() * (theirs - own)).sum(),
                "agreement": (theirs.argmax(-1) == own.argmax(-1)).sum(),
            }
            yield batch.row_keys[0], {name: float(value) for name, value in sums.items()}, len(labels)

    def measure(self, student: TransformersModel, name: str, seed: int) -> list[kdtool.Measurement]:
        """Measure a student, and write what it got on each document into the folder."""
        found = list(self.figures(student))
        subject = kdtool.Subject(name, "student", seed=seed)
        return [
            measured(
                [Item(document, sums[measure], count) for document, sums, count in found],
                self._run,
                subject,
                name=measure,
                unit=about.unit,
                higher_is_better=about.higher_is_better,
                settings={},
            )
            for measure, about in MEASURES.items()
        ]


class Trainings:
    """Students that were trained and measured; trains those that are missing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._items = folder, folder / "held-out"
        self.found = JsonLines(folder / "trainings.jsonl")
        self._held_out = HeldOut(self._items)

    def train(self, arm: str, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Train a recipe with a seed and measure the student, if that is not done yet; return the finding.

        The model is removed once it is measured. Signals and adapted teachers stay in the store, where other runs find them.
        """
        before = self.found.where(arm=arm, seed=seed)
        if before:
            return before[0]
        name = _name(arm, seed)
        results = self.run(name, {**settings, "seeds": [seed]})
        (student,) = results.arms
        done = list(student.phases.values())[-1]
        model = open_model(student.path, dtype=compute_dtype("auto", pick_device()))
        line: dict[str, Any] = {
            "arm": arm,
            "seed": seed,
            "steps": done.steps,
            "tokens": done.tokens,
            "signal_bytes": signal_bytes(results),
            **{found.name: found.value for found in self._held_out.measure(model, name, seed)},
        }
        self.found.add(line)
        shutil.rmtree(results.folder)
        print(" ".join(f"{key}={value}" for key, value in line.items()), flush=True)
        return line

    def run(self, name: str, settings: Mapping[str, Any]) -> kdtool.Results:
        """Run a recipe in the study's folder."""
        return kdtool.run({**settings, "name": name}, out=self.folder / "runs", store=self.folder / "store")

    def teacher(self) -> dict[str, float]:
        """Measure the teacher itself, once."""
        before = self.found.where(arm="teacher")
        if not before:
            figures = self._held_out.measure(self._held_out.teacher, "teacher", 0)
            self.found.add({"arm": "teacher", **{found.name: found.value for found in figures}})
        return self.found.where(arm="teacher")[0]

    def compared(self, measure: str, arm: str, control: str, seeds: Sequence[int]) -> kdtool.Comparison:
        """Compare two arms that were both trained with these seeds; the interval is over documents, of these very students.

        Two or three seeds say too little of others for an interval over seeds, too: see "What the intervals cover" in
        docs/how-it-works.md.
        """
        found = compare(arm, control, [(self._pooled(measure, arm, seeds), self._pooled(measure, control, seeds))])
        assert found is not None
        return found

    def between(self, arm: str, steps: float, ladder: Mapping[int, str], seeds: Iterable[int]) -> None:
        """Add `arm`, which was not trained: what the arms of a ladder of steps would have at `steps`, by interpolation.

        Every document's figures are interpolated linearly in the logarithm of steps between the two neighbours; beyond the
        ladder's ends they are those of the end.
        """
        rungs = sorted(ladder)
        upper = next((rung for rung in rungs if rung >= steps), rungs[-1])
        lower = max((rung for rung in rungs if rung <= steps), default=rungs[0])
        share = log(steps / lower) / log(upper / lower) if upper > lower else 0.0
        for seed in seeds:
            lines = [self.found.where(arm=ladder[rung], seed=seed)[0] for rung in (lower, upper)]
            for measure in MEASURES:
                tables = [read_items(self._file(measure, line["arm"], seed)) for line in lines]
                rows = [
                    {"item": item, "sum": (1 - share) * low + share * tables[1][item][0], "weight": weight}
                    for item, (low, weight) in tables[0].items()
                ]
                text = "".join(json.dumps(row) + "\n" for row in rows)
                self._file(measure, arm, seed).write_text(text, encoding="utf-8")

    def whole_seeds(self, arms: Iterable[str]) -> list[int]:
        """Return the seeds that all of these arms were trained with."""
        return sorted(set.intersection(*({line["seed"] for line in self.found.where(arm=arm)} for arm in arms)))

    def _pooled(self, measure: str, arm: str, seeds: Sequence[int]) -> kdtool.Measurement:
        """Return an arm's figure over its seeds: each document counts with the sums of all of them."""
        about, items = MEASURES[measure], self._file(measure, arm, "s" + "".join(map(str, seeds)))
        pooled: dict[str, list[float]] = {}
        for seed in seeds:
            for item, (total, weight) in read_items(self._file(measure, arm, seed)).items():
                own = pooled.setdefault(item, [0.0, 0.0])
                own[0], own[1] = own[0] + total, own[1] + weight
        rows = ({"item": item, "sum": total, "weight": weight} for item, (total, weight) in pooled.items())
        items.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        table = read_items(items).values()
        value = sum(total for total, _ in table) / sum(weight for _, weight in table)
        better = about.higher_is_better
        return kdtool.Measurement(measure, arm, about.unit, value, len(table), higher_is_better=better, items=items)

    def _file(self, measure: str, arm: str, seed: int | str) -> Path:
        return self._items / f"{measure}.{_name(arm, seed)}.items.jsonl"


def summary(trainings: Trainings, arms: Collection[str], pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return what was found with whole seeds as plain data: each arm's means, and differences with their intervals."""
    seeds = trainings.whole_seeds(arms)
    found: dict[str, Any] = {"teacher": trainings.teacher(), "seeds": seeds, "arms": {}, "differences": []}
    for arm in arms:
        lines = [line for line in trainings.found.where(arm=arm) if line["seed"] in seeds]
        means = {measure: round(mean(line[measure] for line in lines), 4) for measure in MEASURES}
        found["arms"][arm] = {"steps": lines[0]["steps"], **means}
    for arm, other in pairs:
        found["differences"] += [
            difference(trainings.compared(measure, arm, other, seeds), arm) for measure in MEASURES
        ]
    return found


def difference(found: kdtool.Comparison, arm: str) -> dict[str, Any]:
    """Return a comparison as plain data: `arm` minus the other, with its interval."""
    bounds = {name: round(getattr(found, name), 4) for name in ("difference", "low", "high")}
    return {"measure": found.measurement, "arm": arm, "control": found.against, **bounds}


def written(text: str, path: Path) -> None:
    """Write a file and show what it says."""
    path.write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)


def tables(found: Mapping[str, Any]) -> str:
    """Return a summary as two Markdown tables: arms, and differences in nats a token."""
    lines = [
        "| arm | steps | nats a token | KL to the teacher | same first token |",
        "|---|---|---|---|---|",
    ]
    for arm, own in found["arms"].items():
        lines.append(f"| {arm} | {own['steps']} | {own['nats']:.3f} | {own['kl']:.3f} | {own['agreement']:.1%} |")
    lines += ["", "| difference | nats a token | KL to the teacher |", "|---|---|---|"]
    for arm, control in dict.fromkeys((line["arm"], line["control"]) for line in found["differences"]):
        cells = [
            f"{line['difference']:+.3f} ({line['low']:+.3f} to {line['high']:+.3f})"
            for line in found["differences"]
            if (line["arm"], line["control"]) == (arm, control) and line["measure"] != "agreement"
        ]
        lines.append(f"| {arm} − {control} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot_differences(found: Mapping[str, Any], path: Path) -> None:
    """Draw the differences in nats a token with their intervals."""
    import matplotlib.pyplot as plt

    nats = [line for line in found["differences"] if line["measure"] == "nats"]
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.34 * len(nats)))
    for place, line in enumerate(nats):
        axes.plot([line["low"], line["high"]], [place, place], color="tab:blue", linewidth=2)
        axes.plot(line["difference"], place, "o", color="tab:blue")
    axes.axvline(0, color="grey", linewidth=1)
    axes.set_yticks(range(len(nats)), [f"{line['arm']} − {line['control']}" for line in nats])
    axes.invert_yaxis()
    axes.set_xlabel("nats a token on held-out files, with 95 % intervals")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def signal_bytes(results: kdtool.Results) -> int | None:
    """Return the size on disk of the signals that a run learned from; None where the teacher ran beside it."""
    stages = [stage.path for stage in results.stages if stage.name.startswith("signals")]
    files = [file for path in stages for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) if stages else None


class StepClock(kdtool.Tracker):
    """A tracker that notes processor time: after every logged step of each arm, and what recording signals took."""

    steps: ClassVar[dict[str, list[float]]] = {}
    signals: ClassVar[list[float]] = []
    """Both of the class, since the engine makes the component and the study reads it."""

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        self.steps.setdefault(run.arm, []).append(time.process_time())

    def kdtool_stage_start(self, run: kdtool.RunInfo, total: int | None, unit: str) -> None:
        self._start = time.process_time()

    def kdtool_stage_end(self, run: kdtool.RunInfo, seconds: float, reused: bool) -> None:
        if run.stage == "signals" and not reused:
            self.signals.append(time.process_time() - self._start)


class Calibration(NamedTuple):
    """Processor seconds of a recipe: of a step, of recording all its signals, of a step of adapting its teacher."""

    step: float
    recording: float = 0.0
    adapting_step: float = 0.0


def calibrated(trainings: Trainings, arms: Mapping[str, Mapping[str, Any]], rounds: int = 2) -> dict[str, Calibration]:
    """Calibrate recipes by short trainings, all in turn, for some rounds: medians of steps, and what was done only once.

    Processor time hardly depends on what else runs, and what is left of that meets all recipes alike. The first step of a
    training, which warms up, is not counted.
    """
    found = JsonLines(trainings.folder / "calibration.jsonl")
    for number in range(rounds):
        for arm, settings in arms.items():
            if found.where(arm=arm, round=number):
                continue
            StepClock.steps.clear()
            StepClock.signals.clear()
            shutil.rmtree(trainings.run("calibration", {**_shortened(settings), "seeds": [number]}).folder)
            seconds = {name: [b - a for a, b in pairwise(stamps)] for name, stamps in StepClock.steps.items()}
            taught, recording = seconds.get("teacher", []), sum(StepClock.signals)
            found.add(
                {"arm": arm, "round": number, "seconds": seconds["student"], "adapting": taught, "recording": recording}
            )
    return {arm: _calibration(found.where(arm=arm)) for arm in arms}


def _shortened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with few steps of its last phase, each of them logged."""
    phases = settings["train"]
    short = {**phases, "steps": 6} if "losses" in phases else {**phases, "distil": {**phases["distil"], "steps": 6}}
    clock = {"clock": {"use": "held_out_study:StepClock", "required": True}}
    return {**settings, "trainer": {**settings["trainer"], "log_every": 1}, "train": short, "trackers": clock}


def _calibration(lines: Iterable[Mapping[str, Any]]) -> Calibration:
    steps, taught = ([second for line in lines for second in line[key]] for key in ("seconds", "adapting"))
    return Calibration(median(steps), sum(line["recording"] for line in lines), median(taught) if taught else 0.0)


def _name(arm: str, seed: int | str) -> str:
    return f"{re.sub('[^a-z0-9]+', '-', arm.lower())}-seed{seed}"
