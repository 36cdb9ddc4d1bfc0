"""Time and memory of text and rows as they grow: both stages of a run, on as many tokens as asked for.

    python benchmarks/rows_growth.py [--tokens 100000000] [--work DIR] [--json FILE]

Text is cheap: pieces of Python's standard library in random order, of about 4,000 characters each. The tokenizer is that of
the teacher `smollm2`, the rows have 512 tokens. The files that each stage has written, the processor's time and the peak
memory of the process are read every second, and printed for every tenth of the bytes, so that a stage that slows down or
grows is seen, on a busy machine, too. Needs 20 bytes of disk for each token. Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import assemble
from kdtool._recipe.parser import load_recipe
from kdtool._run.context import Context
from kdtool._run.graph import Node
from kdtool._run.plan import check_and_build_graph
from kdtool._run.stages.data import rows_of

_RECIPE = Path("quickstart")
_CHARACTERS = 4000
_CHARACTERS_PER_TOKEN = 3.8
_TENTHS = 10


def main() -> None:
    """Make the text and the rows, and print a table for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=10**8)
    parser.add_argument("--work", type=Path, help="folder for the files; default: a temporary one")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdtool-growth-", dir=options.work) as folder:
        work = Path(folder)
        write_text(work / "train.jsonl", options.tokens)
        figures = make(work, options.tokens)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def write_text(file: Path, tokens: int) -> None:
    """Write documents that have about this number of tokens, none of them twice."""
    chosen = random.Random(0)
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [path.read_text(encoding="utf-8", errors="ignore") for path in sources]
    texts = [text for text in texts if len(text) > 2 * _CHARACTERS]
    count = int(tokens * _CHARACTERS_PER_TOKEN / _CHARACTERS)
    with file.open("w", encoding="utf-8") as opened:
        for number in range(count + 100):
            text = chosen.choice(texts)
            start = chosen.randrange(len(text) - _CHARACTERS)
            split = "train" if number >= 100 else ("validation", "test")[number % 2]
            line = {"text": f"# {number}\n{text[start : start + _CHARACTERS]}", "split": split, "licence": "PSF-2.0"}
            opened.write(json.dumps(line) + "\n")


def make(work: Path, tokens: int) -> dict[str, Any]:
    """Make the text and the rows of a run, and return figures."""
    settings: dict[str, Any] = {
        "corpus": {"use": "jsonl", "files": [str(work / "train.jsonl")], "language": "python"},
        "rows.maximum_tokens": 2 * tokens,
        "evaluators": False,
    }
    with assemble(load_recipe(_RECIPE, settings), print) as assembly:
        context = Context.of(assembly, work / "run", work / "store")
        graph = check_and_build_graph(context)
        rows = next(iter(graph.materials.values())).rows
        figures: dict[str, Any] = {node.kind: watch(context, node) for node in (graph.texts, rows)}
        stored = rows_of(rows)
        figures["tokens"] = len(stored) * stored.length
        figures["bytes"] = {node.kind: _size(node.path) for node in (graph.texts, rows)}
    seconds = figures["rows"][-1]["seconds"]
    print(
        f"{figures['tokens']:,} tokens in rows, {figures['tokens'] / seconds:,.0f} tokens/s, bytes: {figures['bytes']}"
    )
    return figures


def watch(context: Context, node: Node) -> list[dict[str, float]]:
    """Make a node, and return the processor's seconds and the peak memory at each tenth of its bytes."""
    seen, done, start = list[tuple[float, float, int]](), threading.Event(), time.process_time()

    def look() -> None:
        while not done.wait(1):
            seen.append((time.process_time() - start, _peak(), _size(node.partial)))

    watching = threading.Thread(target=look)
    watching.start()
    context.make(node)
    done.set()
    watching.join()
    size = _size(node.path)
    seen.append((time.process_time() - start, _peak(), size))
    tenths = [next(one for one in seen if one[2] >= size * tenth / _TENTHS) for tenth in range(1, _TENTHS + 1)]
    print(f"{node.kind}: {size:,} bytes\n| tenth | processor, s | peak memory, GB |\n|---|---|---|")
    before = 0.0
    for number, (seconds, peak, _) in enumerate(tenths, 1):
        print(f"| {number} | {seconds - before:.1f} | {peak / 1e9:.2f} |", flush=True)
        before = seconds
    return [{"seconds": seconds, "peak": peak, "bytes": written} for seconds, peak, written in tenths]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0


def _peak() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
