"""Choose the learning rates of the recipe quickstart-seeds, the same rates for student and control, on validation files.

    python benchmarks/quickstart_search.py [--rates 5e-4 1e-3 2e-3] [--out FILE]

One seed; held-out test files are not touched. Writes a table and JSON. The recipe takes each arm's best rate.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import kdtool

RECIPE = "quickstart-seeds"


def main() -> None:
    """Train both arms at every rate and print validation perplexities."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", nargs="+", default=["5e-4", "1e-3", "2e-3"])
    parser.add_argument("--set", nargs="*", default=[], dest="settings", help="further KEY=VALUE settings")
    parser.add_argument("--out", type=Path, default=Path("quickstart_search.json"))
    options = parser.parse_args()
    rows = []
    for rate in options.rates:
        settings = {
            "name": f"search-{rate}",
            "seeds": [0],
            "trainer.learning_rate": float(rate),
            "control.trainer": "false",
            "control.match": ["tokens"],
            "evaluators.perplexity.split": "validation",
            "evaluators.agreement": "false",
            "evaluators.efficiency": "false",
            "exporters": "false",
            "reporter": "false",
            **dict(pair.split("=", 1) for pair in options.settings),
        }
        results = kdtool.run(RECIPE, settings)
        values = {m.subject: m.value for m in results.measurements if m.name == "perplexity"}
        seconds = {arm.arm: sum(phase.seconds for phase in arm.phases.values()) for arm in results.arms}
        rows.append({"rate": rate, "perplexity": values, "seconds": seconds, "signals": results.data["signal_seconds"]})
        print(f"rate {rate:>6}: student {values['student']:8.2f}   control {values['control']:8.2f}", flush=True)
    options.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
