"""Code summarisation: what a function does, in words, compared by smoothed BLEU-4 (CodeXGLUE, code to text)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import exp, log
from pathlib import Path
from sys import float_info
from typing import Any

import kdtool
from kdtool_measuring import Kind, choose, records_of

from kdtool_evaluator_codexglue._asking import Metric, Question, Task

__all__ = ["bleu_4", "summary_task"]

_WORDS = re.compile(r"[^\W_]+|_|[^\w\s]")
_TOKENS = 128
_NEEDED: Mapping[str, Kind] = {"code_tokens": "texts", "docstring_tokens": "texts", "language": "text"}
_EXPECTED = "test.jsonl of CodeXGLUE's code-to-text"
_OPENINGS = {"python": '"""', "ruby": "=begin"}
_LIKE = "CodeXGLUE's code-to-text/evaluator/evaluator.py (there on answers of tuned models by beam search)"


def bleu_4(hypothesis: str, reference: str) -> float:
    """Return the smoothed BLEU of a sentence up to 4-grams, from 0 to 100, as CodeXGLUE's evaluator of code to text has it.

    100 · exp(min(0, 1 − (r + 1) / (h + 1)) + ¼ Σₙ log((mₙ + sₙ + ε) / (gₙ + sₙ + ε))), with h and r the numbers of words of
    hypothesis and reference, gₙ the n-grams of the hypothesis, mₙ those of them that are in the reference (each as often as
    it is there), s₁ = 0 and sₙ = 1 from n = 2 (Lin and Och 2004, ORANGE), ε the smallest normal number. Words are lower
    case; an underscore and each punctuation mark is a separate word.

    sacrebleu (`add-k`) and NLTK (`method2`) smooth alike, but their brevity penalty is the usual exp(1 − r / h): they give
    8.40 for the sample of CodeXGLUE's evaluator, which gives 9.55.
    """
    words, expected = (_WORDS.findall(text.strip().lower()) for text in (hypothesis, reference))
    total = 0.0
    for n in range(1, 5):
        given = _n_grams(words, n)
        smoothing = int(n > 1) + float_info.min
        total += log((given & _n_grams(expected, n)).total() + smoothing) - log(given.total() + smoothing)
    brevity = min(0.0, 1 - (len(expected) + 1) / (len(words) + 1))
    return 100 * exp(brevity + total / 4)


def summary_task(file: Path, most: int | None, settings: Mapping[str, str]) -> Task:
    """Return summarisation of the functions of a test.jsonl.

    Raises:
        kdtool.UsageError: the file cannot be read, or is in another form.
    """
    records = [record for _, record in records_of(file, "codexglue.summarisation", _NEEDED, _EXPECTED)]
    languages = sorted({record["language"] for record in records})
    if len(languages) > 1:
        raise kdtool.UsageError(
            f"codexglue.summarisation: {file} contains functions in {', '.join(languages)}: give a file of one language "
            "and a separate evaluator for each"
        )
    questions = [
        Question(str(number), _prompt(record), _join_words(record["docstring_tokens"]))
        for number, record in enumerate(records, 1)
    ]
    return Task(
        name="summary",
        language=languages[0],
        questions=choose(questions, most),
        stop=("\n", '"""', "*/"),
        maximum_tokens=_TOKENS,
        cut=str.strip,
        metrics=(Metric("bleu-4", "of 100", bleu_4, _LIKE),),
        settings={
            **settings,
            "prompt": "the code's tokens in a line, a comment that begins: The goal of this function is to",
        },
    )


def _n_grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _prompt(record: Mapping[str, Any]) -> str:
    """Return a function's tokens, which the dataset's authors left without documentation, and the beginning of a comment."""
    return f"{_join_words(record['code_tokens'])}\n{_OPENINGS.get(record['language'], '/*')} The goal of this function is to"


def _join_words(tokens: Sequence[str]) -> str:
    return " ".join(" ".join(tokens).split())
