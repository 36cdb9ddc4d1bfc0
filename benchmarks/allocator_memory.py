"""Peak resident memory of training with glibc's cache of small blocks and without it, as `kdtool run` begins.

    python benchmarks/allocator_memory.py [--rounds 2]

Each recipe runs in turn with the cache and without, in processes of their own. Linux with glibc. Five minutes on two
cores, no network; memory does not depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from check_memory import AXES, make_models, measured, recipe_of, title

CASES = (
    ("gpt-80M", "narrow", False, 4, 256, 1, "float32", "none", False, "lora"),
    ("gpt-80M", "narrow", True, 2, 512, 1, "bfloat16", "beside", False, "full"),
    ("gpt-40M", "wide", True, 2, 256, 2, "float32", "none", False, "full"),
)


def main() -> int:
    """Run each recipe both ways and print the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    print("| recipe | with the cache, GB | without, GB | ratio |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        for values in CASES:
            case = dict(zip(AXES, values, strict=True))
            recipe = recipe_of(case, Path(folder))
            for _ in range(rounds):  # an empty setting is one that kdtool leaves as it is
                before, after = measured(recipe, GLIBC_TUNABLES=""), measured(recipe)
                print(f"| {title(case)} | {before / 1e9:.2f} | {after / 1e9:.2f} | {after / before:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
