"""Line completion: what follows in a line of tokenised code (CodeXGLUE, arXiv 2102.04664, section 4.4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import kdtool
from kdtool_measuring import Kind, choose, records_of

from kdtool_evaluator_codexglue._asking import Metric, Question, Task
from kdtool_evaluator_codexglue._tokens import language_of

__all__ = ["edit_similarity", "exact_match", "line_task", "restore_literals"]

_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)
_EMPTY = {"<NUM_LIT>": "0", "<STR_LIT>": "", "<CHAR_LIT>": ""}
_TOKENS = 100
_NEEDED: Mapping[str, Kind] = {"input": "text", "gt": "text"}
_EXPECTED = "test.json of CodeXGLUE's line completion"
_EVALUATOR = "CodeXGLUE's CodeCompletion-line/evaluator/evaluator.py (there on answers of tuned models by beam search)"


def restore_literals(code: str) -> str:
    """Put literals in place of the marks that the preparation of the datasets left for them.

    `<NUM_LIT:1>` becomes `1`, and so do strings and characters; `<NUM_LIT>` becomes `0`, `<STR_LIT>` and `<CHAR_LIT>`
    nothing. As `post_process` in CodeXGLUE's evaluator of line completion.
    """
    for mark, text in _EMPTY.items():
        code = code.replace(mark, text)
    return _LITERAL.sub(r"\1", code)


def exact_match(completion: str, line: str) -> float:
    """Return 1 if both are the same tokens between white space once literals are restored, else 0."""
    return float(restore_literals(completion).split() == restore_literals(line).split())


def edit_similarity(completion: str, line: str) -> float:
    """Return how alike two lines are once literals are restored: 0 to 100, a whole number.

    100 · 2 · LCS / (len + len), LCS the length of their longest common subsequence of characters, rounded: `ratio` of the
    library fuzzywuzzy, which CodeXGLUE's evaluator averages. rapidfuzz computes the same without rounding.
    """
    from rapidfuzz import fuzz

    return float(round(fuzz.ratio(restore_literals(completion.strip()), restore_literals(line))))


def line_task(file: Path, most: int | None, settings: Mapping[str, str]) -> Task:
    """Return line completion on test.json of py150 or javaCorpus.

    Raises:
        kdtool.UsageError: the file cannot be read, or is in another form.
    """
    records = [record for _, record in records_of(file, "codexglue.line_completion", _NEEDED, _EXPECTED)]
    if not any(record["gt"] for record in records):
        raise kdtool.UsageError(
            f"codexglue.line_completion: {file} has no ground truth (`gt`); take a file that has it"
        )
    questions = [
        Question(str(number), _prompt(record["input"]), record["gt"]) for number, record in enumerate(records, 1)
    ]
    language = language_of(question.prompt for question in questions)
    lines = language == "python"
    return Task(
        name="line",
        language=language,
        questions=choose(questions, most),
        stop=("\n", "<EOL>") if lines else ("\n",),
        maximum_tokens=_TOKENS,
        cut=str.strip if lines else statement,
        metrics=(
            Metric("line.exact-match", "fraction", exact_match, _EVALUATOR),
            Metric("line.edit-similarity", "of 100", edit_similarity, _EVALUATOR),
        ),
        settings={**settings, "prompt": "the input, without its <s>"},
    )


def statement(text: str) -> str:
    """Return the tokens of a text up to the first `;` or `}`, or up to the text before the first `{`.

    The dataset javaCorpus, which has no line breaks, defines a line so. White space separates tokens.
    """
    match = re.match(r"(.*?)(?<!\S)([;{}])(?!\S)", text, re.DOTALL)
    return (match[1] + match[2].replace("{", "") if match else text).strip()


def _prompt(code: str) -> str:
    """Return the input without the mark of a text's start: runtimes begin a prompt by their models' own."""
    return code.strip().removeprefix("<s>").lstrip()
