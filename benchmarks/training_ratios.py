"""Cost of distillation beside plain training, and of a third-party loss beside a built-in one, in kdtool's own trainer.

    python benchmarks/training_ratios.py [--steps 8] [--json FILE]

Four programs take one step each in turn (see `lockstep`): `ce` without a teacher, `cached` with forward KL on sampled
tokens that are read from disk, `forward-kl` with the teacher online, and `focal`, a loss as a third party writes it, with
the teacher online. It ends with 1 where `cached` takes more than 1.1 x the time of `ce`, or `focal` more than 1.3 x that
of `forward-kl` or more than 1.05 x its memory. Needs 13 GB of memory at the default sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from lockstep import machine, run_in_turns, summary, table
from training_program import default_dtype, default_teacher, prepare

TARGETS = {"cached / ce": 1.1, "focal / forward-kl": 1.3, "focal / forward-kl, memory": 1.05}
PROGRAMS = ("ce", "cached", "forward-kl", "focal")
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Measure, print a table; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", type=Path, help="folder of the teacher; default: the plugin smollm2's")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each program, after one to warm up")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdtool-ratios-") as folder:
        work, tokens = Path(folder), options.batch * options.length
        teacher = options.teacher or default_teacher(work)
        sizes = {"teacher": str(teacher), "batch": options.batch, "length": options.length}
        prepare(work, {**sizes, "dtype": default_dtype(), "samples": 20})
        program = [sys.executable, str(HERE / "training_program.py")]
        before = machine()
        commands = {name: [*program, name, str(work)] for name in PROGRAMS}
        programs = summary(run_in_turns(commands, options.steps, work), tokens)
    ratios = {}
    for pair in ("cached / ce", "focal / forward-kl"):
        one, other = (programs[name] for name in pair.split(" / "))
        ratios[pair] = one["median_seconds"] / other["median_seconds"]
        ratios[f"{pair}, memory"] = one["peak_rss_gb"] / other["peak_rss_gb"]
    print(table(programs))
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f}" + (f" (target: at most {TARGETS[name]})" if name in TARGETS else ""))
    if options.json:
        figures = {"programs": programs, "ratios": ratios, "machine": {**before, "load_after": os.getloadavg()}}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if all(ratios[name] <= target for name, target in TARGETS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
