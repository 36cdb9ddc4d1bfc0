"""Findings of a study as plain data, tables and a plot: means of arms, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import kdtool
from held_out_figures import MEASURES
from trainings import Trainings


def summary(trainings: Trainings, arms: Collection[str], pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return what was found with whole seeds as plain data: each arm's means, and differences with their intervals."""
    seeds = trainings.whole_seeds(arms)
    found: dict[str, Any] = {"teacher": trainings.teacher(), "seeds": seeds, "arms": {}, "differences": []}
    for arm in arms:
        lines = [line for line in trainings.found.where(arm=arm) if line["seed"] in seeds]
        means = {measure: round(mean(line[measure] for line in lines), 4) for measure in MEASURES}
        by_seed = {measure: [round(line[measure], 4) for line in lines] for measure in MEASURES}
        found["arms"][arm] = {"steps": lines[0]["steps"], **means, "by_seed": by_seed}
    for arm, other in pairs:
        found["differences"] += [
            difference(trainings.compared(measure, arm, other, seeds), arm) for measure in MEASURES
        ]
    return found


def difference(found: kdtool.Comparison, arm: str) -> dict[str, Any]:
    """Return a comparison as plain data: `arm` minus the other, with its interval."""
    bounds = {name: round(getattr(found, name), 4) for name in ("difference", "low", "high")}
    return {"measure": found.measurement, "arm": arm, "control": found.against, **bounds, "verdict": found.verdict}


def tables(found: Mapping[str, Any]) -> str:
    """Return a summary as two Markdown tables: arms, and differences in nats a token."""
    lines = ["| arm | steps | nats a token | KL to the teacher | same first token |", "|---|---|---|---|---|"]
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
