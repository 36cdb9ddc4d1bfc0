"""When does distillation pay? Against the same student without a teacher, at equal tokens and at equal time.

    python benchmarks/science/when_it_pays.py [--mode hour|night] [--out FOLDER]

Stated with the script, which was committed together with its first results: exploratory, not pre-registered.

Hypothesis. (1) At equal tokens distillation is better at every budget, for plentiful and for scarce text. (2) At equal time,
with the teacher's time charged in full, it is better where text is scarce, and not where it is plentiful. (3) Hidden states
pay for themselves: at equal time they are better than draws without them. (4) A teacher that was adapted a little makes less
than 0.05 nats of difference at equal tokens.
Measure. Nats a token on the first 96 tokens of 32 held-out files, each way of distilling minus cross-entropy; paired over
files and seeds, with the 95 % intervals that `kdtool run` reports.
Time. Processor seconds of a step, of recording signals and of adapting are measured first, in short trainings in turn. A way
of distilling is charged its steps, its signals (recorded once for the tokens it sees, or the teacher beside every step), and
adapting. The control at equal time is cross-entropy with as many steps as that time holds, interpolated between measured
numbers of steps (linear in their logarithm, file by file); beyond the last, three times the largest budget, it is that one.
Cells. Plentiful text is seen once. Scarce text is as many rows as the second budget has steps, so that the budgets are half
a pass, one, two and four: the first two are the same as plentiful text and are measured once. Teacher beside the student or
recorded, the student learns the same (up to rounding): it is trained once and charged both ways. `hour` trains draws, and
all logits with hidden states; an adapted teacher (8 steps of LoRA on the student's text) at the largest budget only. `night`
adds all logits without hidden states, and an adapted teacher for all ways and budgets. The student of an adapted teacher is
cut from it; the control is not.
Stopping rule. Seeds go through all cells; whole seeds count. `hour`: three seeds, budgets of 4, 8, 16 and 32 steps of
256 tokens; `night`: five, 64 to 512 steps. Nothing is chosen by what is measured: learning rate and weights are the
quickstart's everywhere.

Teacher SmolLM2-135M, student ten of its layers, Python's standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from calibration import Calibration, calibrated
from report import difference
from setting import recipe
from study import arguments, written
from trainings import Trainings

ROW = 256
BUDGETS = {"hour": (4, 8, 16, 32), "night": (64, 128, 256, 512)}
SEEDS = {"hour": 3, "night": 5}
LONGEST = 3
"""Budget of the longest control, as a multiple of the largest budget."""
ADAPT: dict[str, Any] = {
    "trains": "teacher",
    "transforms": {"lora": {"r": 8, "alpha": 16}},
    "losses": {"ce": {}},
    "trainer": {"learning_rate": 5e-4},
    "steps": 8,
}
FULL: dict[str, Any] = {"forward-kl": {}}
HIDDEN: dict[str, Any] = {**FULL, "hidden": {"weight": 5.0}}
SAMPLED, STATES = {"use": "sampled"}, {"use": "states"}
Text = Literal["plentiful", "scarce"]


class Way(NamedTuple):
    """A way to train: losses, what is recorded (None: the teacher, if any, runs beside), whether the teacher is adapted."""

    losses: dict[str, Any]
    signals: dict[str, Any] | None = None
    adapted: bool = False


WAYS = {
    "control": Way({"ce": {}}),
    "samples": Way(FULL, SAMPLED),
    "logits": Way(FULL, STATES),
    "logits + hidden": Way(HIDDEN, STATES),
    "draws, adapted": Way(FULL, SAMPLED, adapted=True),
    "logits, adapted": Way(FULL, STATES, adapted=True),
    "logits + hidden, adapted": Way(HIDDEN, STATES, adapted=True),
}
ONLINE = {"logits": Way(FULL), "logits + hidden": Way(HIDDEN)}
"""The same with the teacher beside the student: only their time is measured."""
HOURLY = ("control", "samples", "logits + hidden", "logits + hidden, adapted")


class Cell(NamedTuple):
    """One training: a way on a text with a number of steps."""

    way: str
    text: Text
    steps: int

    @property
    def arm(self) -> str:
        """Its name among the findings."""
        return f"{self.way}, {self.text}, {self.steps} steps"


class Grid:
    """The cells of a mode."""

    def __init__(self, mode: str) -> None:
        self.budgets, self.hourly = BUDGETS[mode], mode == "hour"
        self.ways = [way for way in WAYS if way in HOURLY or not self.hourly]

    def cells(self) -> Iterator[Cell]:
        """Yield all cells; a scarce text that is seen once at most is as good as a plentiful one."""
        for text in get_args(Text):
            for way in self.ways:
                for steps in self.steps(way):
                    if text == "plentiful" or steps > self.rows(text):
                        yield Cell(way, text, steps)

    def steps(self, way: str) -> tuple[int, ...]:
        """Return the numbers of steps that a way is trained for."""
        if way == "control":
            return (*self.budgets, LONGEST * self.budgets[-1])
        return self.budgets[-1:] if WAYS[way].adapted and self.hourly else self.budgets

    def rows(self, text: Text, steps: int = 0) -> int:
        """Return how many rows there are: as many as the largest budget sees, or these steps."""
        return self.budgets[1] if text == "scarce" else max(steps, self.budgets[-1])

    def recipe(self, way: Way, text: Text, steps: int) -> dict[str, Any]:
        """Return the recipe of a cell."""
        signals = {} if way.signals is None else {"signals": way.signals}
        tokens = ROW * self.rows(text, steps)
        found = recipe(tokens=tokens, steps=steps, train={"losses": way.losses}, **signals)
        return {**found, "train": {"adapt": ADAPT, "distil": found["train"]}} if way.adapted else found

    def ladder(self, text: Text) -> dict[int, str]:
        """Return the control's arms by their steps."""
        once = self.rows("scarce")
        return {
            steps: Cell("control", text if steps > once else "plentiful", steps).arm for steps in self.steps("control")
        }


def main() -> None:
    """Train what is missing, print the map, write JSON and the plot."""
    options = arguments(__doc__, SEEDS, "when-it-pays")
    grid, trainings = Grid(options.mode), Trainings(options.out)
    ways = {name: WAYS[name] for name in grid.ways} | {
        f"{name}, beside": way for name, way in ONLINE.items() if name in grid.ways
    }
    arms = {name: grid.recipe(way, "plentiful", grid.budgets[-1]) for name, way in ways.items()}
    costs = calibrated(trainings, arms)
    for seed in options.seeds:
        for cell in grid.cells():
            trainings.train(cell.arm, seed, grid.recipe(WAYS[cell.way], cell.text, cell.steps))
    seeds = trainings.whole_seeds([cell.arm for cell in grid.cells()])
    found = {
        "seeds": seeds,
        "seconds": {name: cost._asdict() for name, cost in costs.items()},
        "cells": list(compared(grid, trainings, costs, seeds)),
    }
    written(json.dumps(found, indent=1), options.out / "when_it_pays.json")
    print(table(found))
    plot(found, options.out / "when_it_pays.png")


def compared(
    grid: Grid, trainings: Trainings, costs: dict[str, Calibration], seeds: list[int]
) -> Iterator[dict[str, Any]]:
    """Yield every cell's figure, and its differences to the control at equal tokens and at equal time."""
    for cell in grid.cells():
        lines = [line for line in trainings.found.where(arm=cell.arm) if line["seed"] in seeds]
        found = {**cell._asdict(), "nats": round(sum(line["nats"] for line in lines) / len(lines), 4)}
        if cell.way != "control":
            ladder = grid.ladder(cell.text)
            found["tokens"] = difference(trainings.compared("nats", cell.arm, ladder[cell.steps], seeds), cell.way)
            for kind, seconds in charged(grid, cell, costs).items():
                steps = seconds / costs["control"].step
                matched = f"control, {cell.text}, for {kind} {cell.arm}"
                trainings.between(matched, steps, ladder, seeds)
                found[kind] = {
                    **difference(trainings.compared("nats", cell.arm, matched, seeds), cell.way),
                    "control": f"{steps:.0f} steps" + (", the longest taken" if steps > max(ladder) else ""),
                }
        yield found


def charged(grid: Grid, cell: Cell, costs: dict[str, Calibration]) -> dict[str, float]:
    """Return processor seconds of a cell with recorded signals, and with the teacher beside the student."""
    own, way = costs[cell.way], cell.way.removesuffix(", adapted")
    adapting = ADAPT["steps"] * own.adapting_step if WAYS[cell.way].adapted else 0.0
    recorded = own.recording * min(cell.steps, grid.rows(cell.text)) / grid.budgets[-1]
    found = {"recorded": cell.steps * own.step + recorded + adapting}
    if way in ONLINE:
        found["beside"] = cell.steps * costs[f"{way}, beside"].step + adapting
    return found


def table(found: dict[str, Any]) -> str:
    """Return the map as a Markdown table."""
    heads = ("text", "way", "steps", "nats a token", "equal tokens", "equal time, recorded", "equal time, beside")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for cell in found["cells"]:
        cells = [
            f"{one['difference']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})" if one else ""
            for one in (cell.get(kind) for kind in ("tokens", "recorded", "beside"))
        ]
        lines.append(f"| {cell['text']} | {cell['way']} | {cell['steps']} | {cell['nats']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw differences to the control, at equal tokens and at equal time, a panel a text."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    ways = [way for way in dict.fromkeys(cell["way"] for cell in found["cells"]) if way != "control"]
    for axes, text in zip(panels, ("plentiful", "scarce"), strict=True):
        for number, way in enumerate(ways):
            own = [cell for cell in found["cells"] if (cell["way"], cell["text"]) == (way, text)]
            for kind, style in (("tokens", "-"), ("recorded", "--")):
                bars = [[cell[kind]["difference"] - cell[kind]["low"] for cell in own]]
                bars += [[cell[kind]["high"] - cell[kind]["difference"] for cell in own]]
                label = f"{way}, equal {'time' if kind == 'recorded' else kind}"
                places = [cell["steps"] * (1 + 0.04 * number + 0.02 * (kind == "tokens")) for cell in own]
                values = [cell[kind]["difference"] for cell in own]
                drawn = axes.errorbar(places, values, bars, marker="o", capsize=2, color=f"C{number}", label=label)
                drawn[0].set_linestyle(style)
        axes.axhline(0, color="grey", linewidth=1)
        axes.set(xscale="log", xlabel=f"steps of {ROW} tokens", title=f"{text} text")
    panels[0].set_ylabel("nats a token minus the control's")
    panels[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
