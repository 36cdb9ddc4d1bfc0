"""Tasks in which a subject writes text that is compared with the authors' reference.

- line completion: the rest of a line of tokenised code (CodeXGLUE, arXiv 2102.04664, section 4.4)
- summarisation: the purpose of a function in words, by smoothed BLEU-4 (CodeXGLUE, code to text)
- text to code: a Java method from its description and its class, by CodeBLEU (arXiv 2009.10297) on CONCODE
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import exp, log
from pathlib import Path
from sys import float_info
from typing import Any

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


@dataclass(frozen=True)
class Question:
    """A prompt that a subject continues, and the authors' continuation."""

    id: str
    prompt: str
    reference: str


@dataclass(frozen=True)
class Metric:
    """A measure of an answer against its reference; `like` names the published evaluator that it equals."""

    name: str
    unit: str
    score: Callable[[str, str], float]
    like: str


@dataclass(frozen=True)
class Task:
    """Questions of one file, about one programming language.

    `cut` takes out of an answer what is compared; `settings` say how it is asked.
    """

    name: str
    language: str
    questions: Sequence[Question]
    stop: tuple[str, ...]
    maximum_tokens: int
    cut: Callable[[str], str]
    metrics: tuple[Metric, ...]
    settings: Mapping[str, str]


def measurements(run: kdtool.RunInfo, subject: kdtool.Subject, task: Task) -> Iterator[kdtool.Measurement]:
    """Yield a measurement of each of the task's metrics; nothing, with a message, if the subject does not answer."""
    questions = {question.id: question for question in task.questions}

    def request(name: str, runtime: kdtool.Runtime) -> kdtool.Request:
        prompt = fit_prompt(questions[name].prompt, runtime, task.maximum_tokens)
        return kdtool.Request(name, prompt, task.maximum_tokens, task.stop)

    evaluator = f"codexglue.{task.language}"
    answers = collect_answers(run, subject, list(questions), request, evaluator=f"{evaluator}.{task.name}")
    if answers is None:
        return
    decoding = f"greedy, at most {task.maximum_tokens} tokens, until one of {' '.join(map(repr, task.stop))}"

    def score(metric: Metric, answer: Answer) -> float:
        return 0.0 if answer.missing else metric.score(task.cut(answer.text), questions[answer.id].reference)

    for metric in task.metrics:
        yield make_measurement(
            [Item(answer.id, score(metric, answer), 1.0) for answer in answers],
            run,
            subject,
            name=f"{evaluator}.{metric.name}",
            unit=metric.unit,
            higher_is_better=True,
            settings={**task.settings, "decoding": decoding, "like": metric.like},
        )
    yield from measure_missing_answers(f"{evaluator}.{task.name}", subject, answers)


def language_of(codes: Iterable[str]) -> str:
    """Return the language of tokenised code: py150 marks where lines end, javaCorpus does not, and there are no others."""
    return "python" if any("<EOL>" in code for code in codes) else "java"


_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)
_EMPTY_LITERALS = {"<NUM_LIT>": "0", "<STR_LIT>": "", "<CHAR_LIT>": ""}
_LINE_TOKENS = 100
_LINE_FIELDS: Mapping[str, Kind] = {"input": "text", "gt": "text"}
_LINE_FILE = "test.json of CodeXGLUE's line completion"
_LINE_EVALUATOR = (
    "CodeXGLUE's CodeCompletion-line/evaluator/evaluator.py (there on answers of tuned models by beam search)"
)


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


def line_task(file: Path, most: int | None, settings: Mapping[str, str]) -> Task:
    """Return line completion on test.json of py150 or javaCorpus.

    Raises:
        kdtool.UsageError: the file cannot be read, or is in another form.
    """
    records = [record for _, record in records_of(file, "codexglue.line_completion", _LINE_FIELDS, _LINE_FILE)]
    if not any(record["gt"] for record in records):
        raise kdtool.UsageError(
            f"codexglue.line_completion: {file} has no ground truth (`gt`); take a file that has it"
        )
    questions = [
        # Without the mark of a text's start: runtimes begin a prompt by their models' own.
        Question(str(number), record["input"].strip().removeprefix("<s>").lstrip(), record["gt"])
        for number, record in enumerate(records, 1)
    ]
    language = language_of(question.prompt for question in questions)
    lines = language == "python"
    return Task(
        name="line",
        language=language,
        questions=choose(questions, most),
        stop=("\n", "<EOL>") if lines else ("\n",),
        maximum_tokens=_LINE_TOKENS,
        cut=str.strip if lines else statement,
        metrics=(
            Metric("line.exact-match", "fraction", exact_match, _LINE_EVALUATOR),
            Metric("line.edit-similarity", "of 100", edit_similarity, _LINE_EVALUATOR),
        ),
        settings={**settings, "prompt": "the input, without its <s>"},
    )


def statement(text: str) -> str:
    """Return the tokens of a text up to the first `;` or `}`, or up to the text before the first `{`.

    The dataset javaCorpus, which has no line breaks, defines a line so. White space separates tokens.
    """
    match = re.match(r"(.*?)(?<!\S)([;{}])(?!\S)", text, re.DOTALL)
    return (match[1] + match[2].replace("{", "") if match else text).strip()


_WORDS = re.compile(r"[^\W_]+|_|[^\w\s]")
_SUMMARY_TOKENS = 128
_SUMMARY_FIELDS: Mapping[str, Kind] = {"code_tokens": "texts", "docstring_tokens": "texts", "language": "text"}
_SUMMARY_FILE = "test.jsonl of CodeXGLUE's code-to-text"
_COMMENT_OPENINGS = {"python": '"""', "ruby": "=begin"}
_SUMMARY_EVALUATOR = "CodeXGLUE's code-to-text/evaluator/evaluator.py (there on answers of tuned models by beam search)"


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
    records = [record for _, record in records_of(file, "codexglue.summarisation", _SUMMARY_FIELDS, _SUMMARY_FILE)]
    languages = sorted({record["language"] for record in records})
    if len(languages) > 1:
        raise kdtool.UsageError(
            f"codexglue.summarisation: {file} contains functions in {', '.join(languages)}: give a file of one language "
            "and a separate evaluator for each"
        )
    questions = [
        Question(str(number), _summary_prompt(record), _join_words(record["docstring_tokens"]))
        for number, record in enumerate(records, 1)
    ]
    return Task(
        name="summary",
        language=languages[0],
        questions=choose(questions, most),
        stop=("\n", '"""', "*/"),
        maximum_tokens=_SUMMARY_TOKENS,
        cut=str.strip,
        metrics=(Metric("bleu-4", "of 100", bleu_4, _SUMMARY_EVALUATOR),),
        settings={
            **settings,
            "prompt": "the code's tokens in a line, a comment that begins: The goal of this function is to",
        },
    )


def _n_grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _summary_prompt(record: Mapping[str, Any]) -> str:
    """Return a function's tokens, which the dataset's authors left without documentation, and the beginning of a comment."""
    opening = _COMMENT_OPENINGS.get(record["language"], "/*")
    return f"{_join_words(record['code_tokens'])}\n{opening} The goal of this function is to"


def _join_words(tokens: Sequence[str]) -> str:
    return " ".join(" ".join(tokens).split())


_LEAST_WORDS = 4
_PROGRAM_TOKENS = 256
_PROGRAM_KEY = "codexglue.generation"
_PROGRAM_FIELDS: Mapping[str, Kind] = {"nl": "text", "code": "text"}
_PROGRAM_FILE = "dev.json of CodeXGLUE's text-to-code (CONCODE)"
_PROGRAM_EVALUATOR = (
    "CodeXGLUE's CodeBLEU by codebleu 0.7.0, of each program by itself and averaged (there of all programs as one text)"
)
_INSTALL_CODEBLEU = 'pip install codebleu==0.7.0 "tree-sitter==0.22.*" "tree-sitter-java<0.23"'


def words_of(code: str) -> list[str]:
    """Split code into words and single marks of punctuation, however it is spaced."""
    return re.findall(r"\w+|[^\w\s]", code)


def codebleu(program: str, reference: str) -> float:
    """Return CodeBLEU of a Java program, from 0 to 100 (Ren et al. 2020, arXiv 2009.10297, equation 1, all weights ¼).

    100 · ¼ (BLEU + BLEU weighted by keywords + matching subtrees + matching data flow). Data flow counts as matched if
    the reference has none. A program of fewer than four words has no 4-grams, and gets 0. Needs the extra `codebleu`.

    Raises:
        ValueError: the reference has fewer than four words, so that its CodeBLEU is not defined.
    """
    if len(words_of(reference)) < _LEAST_WORDS:
        raise ValueError(f"CodeBLEU is not defined for a reference of fewer than {_LEAST_WORDS} words: {reference!r}")
    if len(words_of(program)) < _LEAST_WORDS:
        return 0.0
    parts = _parts(program, reference)
    # The library treats a data flow without any match as a missing one, and counts it as matched.
    flow = parts["dataflow_match_score"] or float(not _parts(reference, reference)["dataflow_match_score"])
    matched = parts["ngram_match_score"] + parts["weighted_ngram_match_score"] + parts["syntax_match_score"]
    return 100 * float(matched + flow) / 4


def missing_for_codebleu() -> Iterator[str]:
    """Say what is not installed for CodeBLEU, or in a version that does not work."""
    for name, works in (("codebleu", "0.7."), ("tree-sitter", "0.22."), ("tree-sitter-java", "0.21.")):
        try:
            found = version(name)
        except PackageNotFoundError:
            yield f"{name}, which CodeBLEU needs, is not installed: {_INSTALL_CODEBLEU}, or leave `generation` out"
        else:
            if not found.startswith(works):
                yield f"CodeBLEU needs {name} {works}*, here is {found}: {_INSTALL_CODEBLEU}, or leave `generation` out"


def program_task(file: Path, most: int | None, settings: Mapping[str, str]) -> Task:
    """Return the methods of CONCODE whose CodeBLEU is defined.

    Raises:
        kdtool.UsageError: the file cannot be read, is in another form, or keeps the answers back.
    """
    records = [record for _, record in records_of(file, _PROGRAM_KEY, _PROGRAM_FIELDS, _PROGRAM_FILE)]
    questions = [
        Question(str(number), _program_prompt(record["nl"]), record["code"])
        for number, record in enumerate(records, 1)
        if len(words_of(record["code"])) >= _LEAST_WORDS
    ]
    if not questions:
        raise kdtool.UsageError(
            f"{_PROGRAM_KEY}: {file} holds no programs to compare with: CONCODE's test.json keeps them back, take dev.json"
        )
    return Task(
        name="program",
        language="java",
        questions=choose(questions, most),
        stop=("\n    /**", "\n}"),
        maximum_tokens=_PROGRAM_TOKENS,
        cut=first_method,
        metrics=(Metric("codebleu", "of 100", codebleu, _PROGRAM_EVALUATOR),),
        settings={**settings, "prompt": "a Java class with the members given, and the description as documentation"},
    )


def first_method(text: str) -> str:
    """Return a text up to the brace that closes its first one; all of it if none does."""
    depth = 0
    for brace in re.finditer(r"[{}]", text):
        depth += 1 if brace[0] == "{" else -1
        if depth <= 0:
            return text[: brace.end()].strip()
    return text.strip()


def _program_prompt(description: str) -> str:
    """Return the beginning of a class: its members, and the documentation of the missing method.

    CONCODE calls every method `function` and its parameters `arg0`, `arg1`, which cannot be guessed.
    """
    said, *groups = (group.strip() for group in description.split("concode_field_sep"))
    members = [member.strip() for group in groups for member in group.split("concode_elem_sep")]
    declared = "".join(f"    {member};\n" for member in dict.fromkeys(members) if member)
    return (
        f"class Context {{\n{declared}\n    /**\n     * {said}\n"
        "     * The method is called function, its parameters arg0, arg1 and so on.\n     */\n   "
    )


def _parts(program: str, reference: str) -> Mapping[str, float]:
    from codebleu import calc_codebleu

    with _silent():
        parts: Mapping[str, Any] = calc_codebleu([reference], [program], lang="java", tokenizer=words_of)
    return parts


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the library from setting up logging, and from a warning for each program without data flow."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [logging.NullHandler()]
    try:
        yield
    finally:
        root.handlers = handlers
