"""Measure completions at a cursor with each of `kdtool serve`'s devices on and off.

    python benchmarks/completions.py MODEL [--gaps 150] [--before 500] [--after 250] [--tokens 16] [--records FILE]

MODEL is a folder, a file or a run, as for `kdtool generate`. Cursors are drawn in files of Python's standard library: within
a word, after one, and in the indentation of a line; the expected text is the rest of the line. A model with FIM tokens reads
the text after the gap; another one continues. Prints for each configuration the share of answers that are the rest of the
line, the similarity by edits, the characters up to the first difference, and the share of answers that are shown (not
empty), with the differences to the first configuration: 95 % intervals of a bootstrap that resamples whole files. Answers in
FILE are not generated again.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import kdtool
import kdtool_transformers.streaming.answer as growing
from kdtool_evaluator_line_completion import edit_similarity
from kdtool_serve.devices import Devices
from kdtool_serve.tasks import Task
from kdtool_transformers import trim_suffix

KINDS = {
    "within a word": re.compile(r"(?<=\w)(?=\w)"),
    "after a word": re.compile(r"(?<=\w)(?=[^\w\s])|(?<=\w)(?= \S)"),
    "in the indentation": re.compile(r"^(?=\s*\S)|(?<=    )(?=\S)"),
}
RESAMPLES = 2000
SCORES = ("exact match", "similarity", "right characters", "shown")
ALL = Devices()
CONFIGURATIONS: Mapping[str, tuple[Devices, bool]] = {
    "all": (ALL, True),
    "without healing": (replace(ALL, healing=False), True),
    "without the end at the suffix": (ALL, False),
    "without the end of the unit": (replace(ALL, units=False), True),
    "none": (Devices(healing=False), False),
}
"""Devices, and whether text that repeats the suffix is cut."""
Recorded = list[tuple[str, list[tuple[str, float]], str | None]]
"""The pieces of an answer: text, tokens with log-probabilities, and the finish of the last."""


@dataclass(frozen=True)
class Gap:
    """A cursor in a file: its request and the rest of its line."""

    kind: str
    file: str
    request: kdtool.Request
    expected: str


def gaps(count: int, before: int, after: int) -> Iterator[Gap]:
    """Yield gaps, a third of each kind."""
    draw = random.Random(0)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = {file.name: file.read_text(encoding="utf-8", errors="ignore") for file in files}
    long = [name for name, text in texts.items() if len(text) > 4 * before]
    for number in range(count):
        kind = [*KINDS][number % len(KINDS)]
        cursors: list[int] = []
        while not cursors:
            name = draw.choice(long)
            text = texts[name]
            begin = text.index("\n", draw.randrange(before, len(text) - before)) + 1
            line = text[begin:].partition("\n")[0]
            found = (place.start() for place in KINDS[kind].finditer(line)) if "#" not in line else ()
            cursors = [cursor for cursor in found if len(line[cursor:].strip()) >= 3]
        cursor = draw.choice(cursors)
        at, end = begin + cursor, begin + len(line)
        prompt, suffix = text[max(0, at - before) : at], text[end : end + after]
        yield Gap(kind, name, kdtool.Request(str(number), prompt, 0, suffix=suffix, seed=number), line[cursor:])


def record(runtime: kdtool.Runtime, gap: Gap, tokens: int) -> dict[str, Recorded]:
    """Return the answers with and without healing, without any other device."""
    asked = replace(gap.request, max_tokens=tokens, logprobs=0)
    asked = asked if "infill" in runtime.abilities else replace(asked, suffix=None)
    streams = {key_of(request): runtime.stream(request) for request in (asked, replace(asked, heal=True))}
    found: dict[str, Recorded] = {key: [] for key in streams}
    while streams:  # in turns, so that they share their passes
        for key, stream in [*streams.items()]:
            piece = next(stream)
            found[key].append((piece.text, [(token.token, token.logprob) for token in piece.logprobs], piece.finish))
            if piece.finish:
                del streams[key]
    return found


def key_of(request: kdtool.Request) -> str:
    """Return the name of an answer."""
    return "healed" if request.heal else "plain"


class Replayed(kdtool.Runtime):
    """Streams recorded answers to a gap; text that repeats the suffix is cut if `trims`, as runtimes do that infill."""

    def __init__(self, answers: Mapping[str, Recorded], suffix: str, *, trims: bool) -> None:
        self._answers, self._suffix, self._trims = answers, suffix, trims

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Unused: `stream` is."""
        raise NotImplementedError

    def stream(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        """Yield the pieces of the answer to a request."""
        pieces: list[Any] = self._answers[key_of(request)]
        whole, finish = "".join(text for text, _, _ in pieces), pieces[-1][2]
        left = len(trim_suffix(whole, self._suffix, cut=finish == "length") if self._trims else whole)
        for number, (text, tokens, end) in enumerate(pieces, 1):
            logprobs = tuple(kdtool.TokenLogprob(*token) for token in tokens)
            yield kdtool.TextPiece(text[:left], 0, number, end, logprobs=logprobs)
            left -= len(text[:left])


def complete(gap: Gap, answers: Mapping[str, Recorded], configuration: str, *, infills: bool) -> str:
    """Return the completion of a gap as the server gives it in a configuration."""
    devices, ends_at_suffix = CONFIGURATIONS[configuration]
    suffix = gap.request.suffix or ""
    request = replace(gap.request, heal=devices.healing, suffix=suffix if infills else None)
    task = Task(request, suffix, continued=ends_at_suffix and not infills, devices=devices)
    runtime = Replayed(answers, suffix, trims=ends_at_suffix and infills)
    return "".join(piece.text for piece in task.stream(runtime))


def scores_of(answer: str, expected: str) -> tuple[float, ...]:
    """Return `SCORES` of an answer."""
    answer, expected = answer.rstrip(), expected.rstrip()
    common = next((n for n, pair in enumerate(zip(answer, expected, strict=False)) if pair[0] != pair[1]), None)
    shared = min(len(answer), len(expected)) if common is None else common
    return float(answer == expected), edit_similarity(answer, expected), float(shared), float(bool(answer))


def interval(differences: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of differences by file: whole files are resampled."""
    draw, files = random.Random(0), [*differences.values()]
    sums = [(sum(each), len(each)) for each in files]
    means = []
    for _ in range(RESAMPLES):
        chosen = draw.choices(sums, k=len(sums))
        means.append(sum(total for total, _ in chosen) / sum(count for _, count in chosen))
    cuts = quantiles(means, n=40)
    return cuts[0], cuts[-1]


def report(found: Sequence[Gap], answers: Sequence[Mapping[str, Recorded]], *, infills: bool) -> None:
    """Print a line for each configuration and score, of all cursors."""
    scores = {
        name: [
            scores_of(complete(gap, given, name, infills=infills), gap.expected)
            for gap, given in zip(found, answers, strict=True)
        ]
        for name in CONFIGURATIONS
    }
    first = scores[next(iter(scores))]
    for name, rows in scores.items():
        for number, score in enumerate(SCORES):
            by_file: dict[str, list[float]] = defaultdict(list)
            for gap, row, base in zip(found, rows, first, strict=True):
                by_file[gap.file].append(row[number] - base[number])
            mean = fmean(row[number] for row in rows)
            low, high = interval(by_file)
            change = mean - fmean(row[number] for row in first)
            print(f"{name:<30} {score:<17} {mean:7.3f}   {change:+.3f} ({low:+.3f} to {high:+.3f})")


def main() -> None:
    """Generate what is not recorded, and print the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--gaps", type=int, default=150)
    parser.add_argument("--before", type=int, default=500)
    parser.add_argument("--after", type=int, default=250)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--records", type=Path)
    options = parser.parse_args()
    found = list(gaps(options.gaps, options.before, options.after))
    # The records hold what the model wrote; `Replayed` cuts text that repeats the suffix.
    finish = growing.finish_text
    growing.finish_text = lambda text, request, ended: finish(text, replace(request, suffix=None), ended)
    kept = (
        options.records.read_text(encoding="utf-8").splitlines() if options.records and options.records.exists() else []
    )
    answers: list[dict[str, Recorded]] = [json.loads(line) for line in kept]
    with kdtool.open_models(options.model) as models, models.open(next(iter(models.subjects))) as runtime:
        infills = "infill" in runtime.abilities
        for gap in found[len(answers) :]:
            answers.append(record(runtime, gap, options.tokens))
            if options.records:
                with options.records.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(answers[-1]) + "\n")
    files = len({gap.file for gap in found})
    print(f"{options.model}: {'fills gaps' if infills else 'continues'}; {len(found)} cursors in {files} files")
    report(found, answers, infills=infills)


if __name__ == "__main__":
    main()
