"""Memory and speed of the filters on synthetic rows, of which 5 % are near-duplicates, 2 % exact ones, 2 % broken.

    python benchmarks/filters_million.py --rows 1000000

Prints the process's own memory after each tenth, which must not grow with the rows, and the pages of its temporary files
that the system keeps in memory because it has room for them.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import kdtool
from kdtool_data.duplicates import DuplicatesFilter
from kdtool_data.syntax import SyntaxFilter
from kdtool_essentials.length import LengthFilter
from kdtool_essentials.secrets import SecretsFilter
from kdtool_testing import make_run

BATCH = 256
WORDS = [f"name{number}" for number in range(5_000)]


def rows(count: int) -> Iterator[kdtool.Example]:
    """Yield conversations with some 60 words and a block of Python."""
    drawn, before = random.Random(0), ["x"] * 60
    for number in range(count):
        kind = drawn.random()
        words = list(before) if kind < 0.07 else drawn.choices(WORDS, k=60)
        if 0.02 <= kind < 0.07:
            words[drawn.randrange(60)] = drawn.choice(WORDS)
        code = f"def {words[0]}({words[1]}):\n    return [{', '.join(words[2:20])}"
        code += "" if 0.07 <= kind < 0.09 else "]"
        turns = (("user", " ".join(words[20:])), ("assistant", f"```python\n{code}\n```"))
        before = words
        yield kdtool.Example(f"row/{number}", kdtool.Messages(turns), language="python")


def resident() -> tuple[float, float]:
    """Return the process's own resident memory, and the resident pages of files, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1e3 for line in lines if line.startswith("Rss")}
    return found["RssAnon"], found["RssFile"] + found["RssShmem"]


def main() -> None:
    """Filter, and print a line for each tenth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--exact", action="store_true", help="look for exact duplicates only")
    options = parser.parse_args()
    duplicates = DuplicatesFilter(DuplicatesFilter.Config(near=None if options.exact else 0.8))
    filters: dict[str, kdtool.Filter] = {
        "length": LengthFilter(LengthFilter.Config()),
        "syntax": SyntaxFilter(SyntaxFilter.Config()),
        "secrets": SecretsFilter(SecretsFilter.Config()),
        "duplicates": duplicates,
    }
    seconds, rejected, kept = dict.fromkeys(filters, 0.0), Counter[str](), 0
    source, began = rows(options.rows), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        for start in range(0, options.rows, BATCH):
            batch = [one for one, _ in zip(source, range(min(BATCH, options.rows - start)), strict=False)]
            for name, filter_ in filters.items():
                before = time.perf_counter()
                answers = filter_.kdtool_filter(run, batch)
                seconds[name] += time.perf_counter() - before
                rejected.update(f"{name}: {answer}" for answer in answers if answer)
                batch = [one for one, answer in zip(batch, answers, strict=True) if answer is None]
            kept += len(batch)
            if start * 10 // options.rows != (start + BATCH) * 10 // options.rows:
                own, files = resident()
                spent = time.perf_counter() - began
                print(f"{start + BATCH:>9,} rows, {spent:7.1f} s, {own:7.1f} MB, files {files:7.1f} MB", flush=True)
    duplicates.kdtool_close()
    each_row = ", ".join(f"{name} {1e6 * each / options.rows:.0f} µs" for name, each in seconds.items())
    print(f"{kept:,} kept; a row takes {each_row}")
    print(dict(rejected))


if __name__ == "__main__":
    main()
