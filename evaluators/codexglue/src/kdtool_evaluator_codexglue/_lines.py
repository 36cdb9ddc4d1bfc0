"""Line completion: the rest of a line of tokenised code (CodeXGLUE, arXiv 2102.04664, section 4.4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import kdtool
from kdtool_measuring import (
    Answer,
    Item,
    Kind,
    choose,
    collect_answers,
    fit_prompt,
    make_measurement,
    measure_missing_answers,
    records_of,
)

_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)
_EMPTY_LITERALS = {"<NUM_LIT>": "0", "<STR_LIT>": "", "<CHAR_LIT>": ""}
_TOKENS = 100
_FIELDS: Mapping[str, Kind] = {"input": "text", "gt": "text"}
_FILE = "test.json of CodeXGLUE's line completion"
_EVALUATOR = "CodeXGLUE's CodeCompletion-line/evaluator/evaluator.py (there on answers of tuned models by beam search)"


@dataclass(frozen=True)
class Question:
    """The beginning of a line, which a subject continues, and the authors' continuation."""

    id: str
    prompt: str
    reference: str


@dataclass(frozen=True)
class Lines:
    """Questions of one file, about one programming language; `settings` say how they are asked."""

    language: str
    questions: Sequence[Question]
    settings: Mapping[str, str]

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return ("\n", "<EOL>") if self.language == "python" else ("\n",)

    def cut(self, text: str) -> str:
        """Return the part of an answer that is compared."""
        return text.strip() if self.language == "python" else statement(text)


def measurements(run: kdtool.RunInfo, subject: kdtool.Subject, lines: Lines) -> Iterator[kdtool.Measurement]:
    """Yield exact match and edit similarity; nothing, with a message, if the subject does not answer."""
    questions = {question.id: question for question in lines.questions}

    def request(name: str, runtime: kdtool.Runtime) -> kdtool.Request:
        return kdtool.Request(name, fit_prompt(questions[name].prompt, runtime, _TOKENS), _TOKENS, lines.stop)

    evaluator = f"codexglue.{lines.language}.line"
    answers = collect_answers(run, subject, list(questions), request, evaluator=evaluator)
    if answers is None:
        return
    decoding = f"greedy, at most {_TOKENS} tokens, until one of {' '.join(map(repr, lines.stop))}"

    def score_answer(answer: Answer, score: Callable[[str, str], float]) -> float:
        return 0.0 if answer.missing else score(lines.cut(answer.text), questions[answer.id].reference)

    metrics = (("exact-match", "fraction", exact_match), ("edit-similarity", "of 100", edit_similarity))
    for name, unit, score in metrics:
        yield make_measurement(
            [Item(answer.id, score_answer(answer, score), 1.0) for answer in answers],
            run,
            subject,
            name=f"{evaluator}.{name}",
            unit=unit,
            higher_is_better=True,
            settings={**lines.settings, "decoding": decoding, "like": _EVALUATOR},
        )
    yield from measure_missing_answers(evaluator, subject, answers)


def lines_of(file: Path, most: int | None, settings: Mapping[str, str]) -> Lines:
    """Return the questions of test.json of py150 or javaCorpus.

    Raises:
        kdtool.UsageError: the file cannot be read, or is in another form.
    """
    records = [record for _, record in records_of(file, "codexglue.line_completion", _FIELDS, _FILE)]
    if not any(record["gt"] for record in records):
        raise kdtool.UsageError(
            f"codexglue.line_completion: {file} lacks the ground truth (`gt`); take a file that has it"
        )
    questions = [
        # Without the mark of a text's start: runtimes begin a prompt by their models' own.
        Question(str(number), record["input"].strip().removeprefix("<s>").lstrip(), record["gt"])
        for number, record in enumerate(records, 1)
    ]
    language = language_of(question.prompt for question in questions)
    return Lines(language, choose(questions, most), {**settings, "prompt": "the input, without its <s>"})


def language_of(codes: Iterable[str]) -> str:
    """Return the language of tokenised code: py150 marks where lines end, javaCorpus does not, and there are no others."""
    return "python" if any("<EOL>" in code for code in codes) else "java"


def statement(text: str) -> str:
    """Return the tokens of a text up to the first `;` or `}`, or up to the text before the first `{`.

    The dataset javaCorpus, which has no line breaks, defines a line so. White space separates tokens.
    """
    match = re.match(r"(.*?)(?<!\S)([;{}])(?!\S)", text, re.DOTALL)
    return (match[1] + match[2].replace("{", "") if match else text).strip()


def restore_literals(code: str) -> str:
    """Put literals in place of the marks that the preparation of the datasets left for them.

    `<NUM_LIT:1>` becomes `1`, and so do strings and characters; `<NUM_LIT>` becomes `0`, `<STR_LIT>` and `<CHAR_LIT>`
    nothing. As `post_process` in CodeXGLUE's evaluator of line completion.
    """
    for mark, text in _EMPTY_LITERALS.items():
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
