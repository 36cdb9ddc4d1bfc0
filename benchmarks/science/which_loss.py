"""Which loss teaches most in the same time? Eleven losses and mixtures of a short distillation.

    python benchmarks/science/which_loss.py [--mode hour|night] [--out FOLDER]

Stated with the script, which was committed together with its first results: exploratory, not pre-registered.

Hypothesis. At equal time: (1) the mixtures with hidden states are the best of all, and forward KL with
hidden states, which the quickstart takes, is within 0.05 nats a token of the best; (2) of the divergences alone, forward
KL, skew KL, JSD and adaptive KL lie within 0.1 nats of each other, while reverse KL, skew reverse KL and total variation
are worse, since a student that was just cut has little mass where the teacher has it; (3) forward KL beats cross-entropy.
Measure. Nats a token on the first 96 tokens of 32 held-out files; beside it KL to the teacher and agreement with its first
choice. Differences to forward KL, and to the quickstart's mixture, are paired over files and seeds, with the 95 % intervals
that `kdtool run` reports.
Time. Processor seconds of a step are measured first, in short trainings of all losses in turn, two rounds. Each loss then
gets as many steps as fit the time of `STEPS` steps of cross-entropy. Signals are the teacher's stored states; recording them
is not charged, since all but cross-entropy need it alike (when_it_pays.py charges it).
Stopping rule. Seeds go through all losses; whole seeds count. `hour`: three seeds of the time of 32 steps of cross-entropy
on 8,192 different tokens; `night`: five of 512 on 65,536. No setting is chosen by what is measured: every loss has its
default settings and the quickstart's learning rate.

Teacher SmolLM2-135M, student ten of its layers, Python's standard library, rows of 256 tokens, one a step.
"""

from __future__ import annotations

import json
from typing import Any

from calibration import calibrated
from report import plot_differences, summary, tables
from setting import recipe
from study import arguments, written
from trainings import Trainings

STEPS = {"hour": 32, "night": 512}
TOKENS = {"hour": 8192, "night": 65536}
SEEDS = {"hour": 3, "night": 5}
HIDDEN = {"hidden": {"weight": 5.0}}
HALVES = {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}
LOSSES: dict[str, dict[str, Any]] = {
    "ce": {"ce": {}},
    **{
        name: {name: {}}
        for name in ("forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-reverse-kl", "tvd", "adaptive-kl")
    },
    "forward-kl + ce": HALVES,
    "forward-kl + hidden": {"forward-kl": {}, **HIDDEN},
    "forward-kl + ce + hidden": {**HALVES, **HIDDEN},
}
DEFAULTS = ("forward-kl", "forward-kl + hidden")
"""The loss that most recipes take, and the quickstart's."""


def main() -> None:
    """Train what is missing, print tables, write JSON and the plot."""
    options = arguments(__doc__, SEEDS, "which-loss")
    folder, tokens, budget = options.out, TOKENS[options.mode], STEPS[options.mode]
    trainings = Trainings(folder)

    def recipe_of(arm: str, steps: int) -> dict[str, Any]:
        signals = {} if arm == "ce" else {"signals": {"use": "states"}}
        return recipe(tokens=tokens, steps=steps, train={"losses": LOSSES[arm]}, **signals)

    arms = {arm: recipe_of(arm, budget) for arm in LOSSES}
    seconds = {arm: calibration.step for arm, calibration in calibrated(trainings, arms).items()}
    for seed in options.seeds:
        for arm in LOSSES:
            trainings.train(arm, seed, recipe_of(arm, round(budget * seconds["ce"] / seconds[arm])))
    pairs = [(arm, default) for default in DEFAULTS for arm in LOSSES if arm != default]
    found = {"seconds": seconds, **summary(trainings, LOSSES, pairs)}
    written(json.dumps(found, indent=1), folder / "which_loss.json")
    print(tables(found))
    to_kl = [line for line in found["differences"] if line["control"] == "forward-kl"]
    plot_differences({"differences": sorted(to_kl, key=lambda line: line["difference"])}, folder / "which_loss.png")


if __name__ == "__main__":
    main()
