"""Speed and size of sampled signals: drawing beside the teacher's forward pass, and decoding from disk, on one core.

    python benchmarks/sampled_signals.py [--rows 64] [--length 512] [--samples 20]

Teacher SmolLM2-135M on Python's standard library. The teacher's pass with its logits is timed apart from drawing, encoding
and writing (a second thread does the last two), all in CPU time of one core; then all rows are recalled from disk in random
order, four at a time. It ends with 1 where drawing takes longer than the teacher's pass, or decoding is below 2 million
tokens a second.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time, thread_time

import kdtool
import torch
from kdtool_essentials.python_source import PythonSource
from kdtool_teacher_smollm2 import SmolLM2
from kdtool_testing import ListSource, make_run
from kdtool_torch import NO_LABEL, collate
from kdtool_torch.caches import Sampled

BATCH = 4
WANT = kdtool.SignalRequest(frozenset({"sampled"}))


class Timed:
    """The teacher's signals, with the seconds that they take."""

    def __init__(self, teacher: SmolLM2, want: kdtool.SignalRequest) -> None:
        self.want, self.teacher, self.seconds = want, teacher, 0.0

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
        """Ask the teacher for its states, and multiply its logits out once, as its own forward pass would."""
        start = thread_time()
        signal = self.teacher.kdtool_signal(batch, self.want)
        assert signal.lazy is not None
        signal.lazy.head.logits(signal.lazy.hidden)
        self.seconds += thread_time() - start
        return signal


def rows_of(run: kdtool.RunInfo, teacher: SmolLM2, count: int, length: int) -> list[kdtool.Row]:
    """Return rows of source code, every token but the first labelled."""
    tokenizer, ids = teacher.kdtool_tokenizer(run), list[int]()
    for example in PythonSource(PythonSource.Config()).kdtool_examples(run):
        assert isinstance(example.body, kdtool.Text)
        ids += [*tokenizer.encode(example.body.text), tokenizer.end_of_text]
        if len(ids) > count * length:
            break
    return [
        kdtool.Row(f"row {i}", ids[i * length : (i + 1) * length], [True] * length, [0] * length) for i in range(count)
    ]


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = process_time()
    work()
    return process_time() - start


def main() -> int:
    """Record, recall, and print the rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--samples", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        teacher, cache = SmolLM2(SmolLM2.Config()), Sampled(Sampled.Config(samples=options.samples, batch=BATCH))
        run = make_run(folder, {"teacher": teacher})
        rows = rows_of(run, teacher, options.rows, options.length)
        source = Timed(teacher, cache.records(WANT, frozenset({"logits"})))
        source.signal(collate(rows[:1]))  # the weights load
        source.seconds = 0.0
        tokens = sum(int((collate([row]).labels != NO_LABEL).sum()) for row in rows)
        whole = timed(lambda: cache.kdtool_record(run, ListSource(rows), source, folder))
        size = sum(path.stat().st_size for path in folder.glob("shard-*"))
        drawing = whole - source.seconds
        order = random.Random(0).sample(range(len(rows)), len(rows))
        batches = [collate([rows[i] for i in order[start : start + BATCH]]) for start in range(0, len(rows), BATCH)]
        cache.kdtool_recall(batches[0], WANT, folder)  # the files are opened and hashed

        def recall() -> None:
            for batch in batches:
                cache.kdtool_recall(batch, WANT, folder)

        decoding = min(timed(recall) for _ in range(7))
    print(f"{tokens:,} tokens, {options.samples} samples each, one core")
    print(f"size on disk, manifests too      {size / tokens:10.1f} bytes a token")
    print(f"the teacher's forward pass       {tokens / source.seconds:10,.0f} tokens a second")
    print(f"projecting, drawing and writing  {tokens / drawing:10,.0f} tokens a second")
    print(f"reading and decoding             {tokens / decoding:10,.0f} tokens a second")
    return 0 if drawing < source.seconds and tokens / decoding >= 2e6 else 1


if __name__ == "__main__":
    sys.exit(main())
