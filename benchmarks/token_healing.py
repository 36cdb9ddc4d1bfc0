"""Measure completions at a cursor within a line, with and without token healing, as `kdtool serve` streams them.

    python benchmarks/token_healing.py MODEL [--gaps 200] [--before 600] [--after 300]

MODEL is a folder, a file or a run, as for `kdtool generate`. Cursors are drawn in files of Python's standard library: within
a word, after one, and in the indentation of a line. A model with FIM tokens also reads the text after the line; another one
continues. The answer is greedy and ends with the line. Prints for each kind the share of answers that are the rest of the
line, the similarity by edits, and the characters up to the first difference, with 95 % intervals of the paired differences.
"""

from __future__ import annotations

import argparse
import random
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist, fmean, stdev

import kdtool
from kdtool_evaluator_line_completion import edit_similarity
from kdtool_streaming import StreamedModels

KINDS = {
    "within a word": re.compile(r"(?<=\w)(?=\w)"),
    "after a word": re.compile(r"(?<=\w)(?=[^\w\s])|(?<=\w)(?= \S)"),
    "in the indentation": re.compile(r"^(?=\s*\S)|(?<=    )(?=\S)"),
}
Scores = tuple[float, float, float]
"""Exact match, similarity by edits, and characters up to the first difference."""


def gaps(count: int, before: int, after: int) -> Iterator[tuple[str, kdtool.Request, str]]:
    """Yield the kind of a gap, its request, and the rest of its line."""
    draw = random.Random(0)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [text for file in files if len(text := file.read_text(encoding="utf-8", errors="ignore")) > 4 * before]
    for number in range(count):
        kind = [*KINDS][number % len(KINDS)]
        while True:
            text = draw.choice(texts)
            begin = text.index("\n", draw.randrange(before, len(text) - before)) + 1
            line = text[begin:].partition("\n")[0]
            cursors = [found.start() for found in KINDS[kind].finditer(line) if len(line[found.start() :].strip()) >= 3]
            if cursors and "#" not in line:
                break
        cursor = draw.choice(cursors)
        at = begin + cursor
        end = begin + len(line)
        prompt, suffix = text[max(0, at - before) : at], text[end : end + after]
        request = kdtool.Request(str(number), prompt, 32, stop=("\n",), suffix=suffix)
        yield kind, request, line[cursor:]


def scores_of(answer: str, expected: str) -> Scores:
    """Return the scores of an answer."""
    answer, expected = answer.rstrip(), expected.rstrip()
    common = next((n for n, pair in enumerate(zip(answer, expected, strict=False)) if pair[0] != pair[1]), None)
    shared = min(len(answer), len(expected)) if common is None else common
    return float(answer == expected), edit_similarity(answer, expected), float(shared)


def main() -> None:
    """Answer every gap both ways, and print a line for each kind and score."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--gaps", type=int, default=200)
    parser.add_argument("--before", type=int, default=600)
    parser.add_argument("--after", type=int, default=300)
    options = parser.parse_args()
    found: dict[str, list[tuple[Scores, Scores]]] = {kind: [] for kind in KINDS}
    with kdtool.open_models(options.model) as models:
        streamed = StreamedModels(models)
        name = next(iter(streamed.subjects))
        with streamed.open(name) as runtime:
            infills = "infill" in runtime.abilities
            print(f"{name}: {'fills gaps' if infills else 'continues'}", flush=True)
            for kind, given, expected in gaps(options.gaps, options.before, options.after):
                request = given if infills else replace(given, suffix=None)
                streams = (runtime.stream(replace(request, heal=heal)) for heal in (False, True))
                answers = ["".join(piece.text for piece in stream) for stream in streams]
                plain, healed = (scores_of(answer, expected) for answer in answers)
                found[kind].append((plain, healed))
    for kind, pairs in {**found, "all": [pair for some in found.values() for pair in some]}.items():
        for number, score in enumerate(("exact match", "similarity", "characters")):
            print(f"{kind:<20} {len(pairs):4} gaps  {score:<12} {_compare([(p[number], h[number]) for p, h in pairs])}")


def _compare(pairs: Sequence[tuple[float, float]]) -> str:
    differences = [healed - plain for plain, healed in pairs]
    reach = NormalDist().inv_cdf(0.975) * stdev(differences) / len(differences) ** 0.5
    plain, healed, mean = fmean(p for p, _ in pairs), fmean(h for _, h in pairs), fmean(differences)
    return f"{plain:7.3f} → {healed:7.3f}   {mean:+.3f} ({mean - reach:+.3f} to {mean + reach:+.3f})"


if __name__ == "__main__":
    main()
