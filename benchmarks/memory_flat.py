"""Peak memory of training over tokens in a micro-batch, beside what the student's layers take alone.

    python benchmarks/memory_flat.py [--batches 1,2,4,8,16] [--length 512] [--json FILE]

For each size two programs train the same student for two steps, each in a process of its own: forward KL on sampled
tokens from disk with cross-entropy's head and vocabulary, and a loss on final states that needs no logits. What the first
takes more is the head's weight gradient, one chunk of logits, and the states' gradient; it must not grow as logits of all
positions do: it ends with 1 where it grows by more than a tenth of what these would take in float32. Linux and macOS
only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from lockstep import run_in_turns
from training_program import default_dtype, default_teacher, prepare

TARGET = 0.1
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Measure, print a table; 1 if memory grows with the vocabulary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", type=Path, help="folder of the teacher; default: the plugin smollm2's")
    parser.add_argument("--batches", default="1,2,4,8,16", help="rows in a micro-batch")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    sizes = [int(size) for size in options.batches.split(",")]
    with tempfile.TemporaryDirectory(prefix="kdtool-memory-") as folder:
        work = Path(folder)
        teacher = options.teacher or default_teacher(work)
        settings = {"teacher": str(teacher), "length": options.length, "dtype": default_dtype(), "samples": 20}
        prepare(work, {**settings, "batch": sizes[0]})
        vocabulary = json.loads((work / "student" / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        peaks: dict[int, dict[str, float]] = {}
        print("| tokens | layers alone, GB | with head and loss, GB | more, GB | logits of all, float32, GB |")
        print("|---|---|---|---|---|")
        for size in sizes:
            (work / "settings.json").write_text(json.dumps({**settings, "batch": size}), encoding="utf-8")
            peaks[size] = {name: _peak(name, work) for name in ("states", "cached")}
            alone, whole = peaks[size]["states"], peaks[size]["cached"]
            logits = size * options.length * vocabulary * 4 / 1e9
            print(
                f"| {size * options.length} | {alone:.2f} | {whole:.2f} | {whole - alone:.2f} | {logits:.2f} |",
                flush=True,
            )
    more = [peaks[size]["cached"] - peaks[size]["states"] for size in (sizes[0], sizes[-1])]
    growth = (more[1] - more[0]) / ((sizes[-1] - sizes[0]) * options.length * vocabulary * 4 / 1e9)
    print(f"growth: {growth:.3f} of what logits of all positions take (target: at most {TARGET})")
    if options.json:
        options.json.write_text(json.dumps({"peaks": peaks, "growth": growth}, indent=1) + "\n", encoding="utf-8")
    return 0 if growth <= TARGET else 1


def _peak(name: str, work: Path) -> float:
    command = [sys.executable, str(HERE / "training_program.py"), name, str(work)]
    answers = run_in_turns({name: command}, 1, work)[name]
    return float(answers[-1]["rss"]) / 1e9


if __name__ == "__main__":
    sys.exit(main())
