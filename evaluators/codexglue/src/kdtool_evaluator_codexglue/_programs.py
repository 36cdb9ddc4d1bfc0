"""Text to code: a Java method from its description and its class, compared by CodeBLEU (arXiv 2009.10297) on CONCODE."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import kdtool
from kdtool_measuring import Kind, choose, records_of

from kdtool_evaluator_codexglue._asking import Metric, Question, Task

__all__ = ["codebleu", "first_method", "missing", "program_task", "words_of"]

_LEAST_WORDS = 4
_TOKENS = 256
_KEY = "codexglue.generation"
_NEEDED: Mapping[str, Kind] = {"nl": "text", "code": "text"}
_EXPECTED = "dev.json of CodeXGLUE's text-to-code (CONCODE)"
_LIKE = (
    "CodeXGLUE's CodeBLEU by codebleu 0.7.0, of each program by itself and averaged (there of all programs as one text)"
)
_INSTALL = 'pip install codebleu==0.7.0 "tree-sitter==0.22.*" "tree-sitter-java<0.23"'


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


def missing() -> Iterator[str]:
    """Say what is not installed for CodeBLEU, or in a version that does not work."""
    for name, works in (("codebleu", "0.7."), ("tree-sitter", "0.22."), ("tree-sitter-java", "0.21.")):
        try:
            found = version(name)
        except PackageNotFoundError:
            yield f"{name}, which CodeBLEU needs, is not installed: {_INSTALL}, or leave `generation` out"
        else:
            if not found.startswith(works):
                yield f"CodeBLEU needs {name} {works}*, here is {found}: {_INSTALL}, or leave `generation` out"


def program_task(file: Path, most: int | None, settings: Mapping[str, str]) -> Task:
    """Return the methods of CONCODE whose CodeBLEU is defined.

    Raises:
        kdtool.UsageError: the file cannot be read, is in another form, or keeps the answers back.
    """
    records = [record for _, record in records_of(file, _KEY, _NEEDED, _EXPECTED)]
    questions = [
        Question(str(number), _prompt(record["nl"]), record["code"])
        for number, record in enumerate(records, 1)
        if len(words_of(record["code"])) >= _LEAST_WORDS
    ]
    if not questions:
        raise kdtool.UsageError(
            f"{_KEY}: {file} holds no programs to compare with: CONCODE's test.json keeps them back, take dev.json"
        )
    return Task(
        name="program",
        language="java",
        questions=choose(questions, most),
        stop=("\n    /**", "\n}"),
        maximum_tokens=_TOKENS,
        cut=first_method,
        metrics=(Metric("codebleu", "of 100", codebleu, _LIKE),),
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


def _prompt(description: str) -> str:
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
