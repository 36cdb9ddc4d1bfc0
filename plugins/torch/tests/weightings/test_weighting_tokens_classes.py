"""Classes of code: Python against its own tokenizer, cases by hand, texts cut anywhere, conversations."""

from __future__ import annotations

import argparse
import io
import keyword
import tokenize
from pathlib import Path

import kdtool
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_torch.weightings import SYNTAX_CLASSES, Syntax, syntax_classes

LETTERS = dict(zip(SYNTAX_CLASSES, "_ #'1+(kn", strict=True))
CODE = 'def f(x):\n    """What it does."""\n    return f"{x!r}\\n" + 0x1F * x  # a comment\n'


def drawn(text: str, language: str = "python") -> str:
    """The class of each character as a letter, so that it can be read."""
    return "".join(LETTERS[SYNTAX_CLASSES[number]] for number in syntax_classes(text, language))


@pytest.mark.parametrize(
    ("language", "text", "classes"),
    [
        ("python", "if x not in (1, 0x1f):  # hm", "kk n kkk kk (1( 1111((  ####"),
        ("python", 'a = "é漢" + None', "n + '''' + kkkk"),
        ("python", "@dec\nclass A: pass", "nnnn kkkkk n( kkkk"),
        ("python", 'def f():\n  """doc"""\n', "kkk n(((   ######### "),
        ("Python", "x.y += 1", "n+n ++ 1"),
        ("c++", "int a = 1; // c\n", "kkk n + 1( #####"),
        ("c", "#define X 1\n", "kkkkkkkkkkkk"),
        ("rust", 'let s = "a"; /* b */', "kkk n + '''( #######"),
        ("no language", "if x: pass", "__________"),
        ("", "if x: pass", "__________"),
    ],
)
def test_classes_by_hand(language: str, text: str, classes: str) -> None:
    assert drawn(text, language) == classes


def test_python_is_read_as_python_reads_it() -> None:
    """Comments, numbers, keywords and names of a real file are what the standard library's tokenizer says they are."""
    source = Path(argparse.__file__).read_text(encoding="utf-8")
    found = drawn(source)
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    expected = {tokenize.COMMENT: "#", tokenize.NUMBER: "1", tokenize.NAME: "n"}
    told = wrong = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in expected:
            letter = "k" if keyword.iskeyword(token.string) else expected[token.type]
            start = starts[token.start[0] - 1] + token.start[1]
            told += 1
            wrong += found[start : start + len(token.string)] != letter * len(token.string)
    assert told > 5000
    assert wrong <= told / 1000


@given(st.text(), st.sampled_from(["python", "c++", "rust", "html", "php", "bash", "json", "javascript", "go", "x"]))
def test_any_text_has_a_class_for_each_character(text: str, language: str) -> None:
    found = syntax_classes(text, language)
    assert len(found) == len(text)
    assert set(found) <= set(range(len(SYNTAX_CLASSES)))


def test_a_lexer_that_reads_more_than_there_is_gives_no_more_classes_than_characters() -> None:
    text = "*** Settings ***\nLibrary    String"
    assert len(syntax_classes(text, "robotframework")) == len(text)


def test_a_text_that_is_cut_off_is_read_as_far_as_it_goes() -> None:
    whole = drawn(CODE).replace("#", "'")  # a documentation string is known as one when it is closed
    for end in range(len(CODE)):
        cut = drawn(CODE[:end]).replace("#", "'")
        agreeing = sum(a == b for a, b in zip(cut, whole, strict=False))
        assert agreeing >= end - 6, (CODE[:end], cut)  # a word that is cut, or quotes that are not closed, at the end
    assert drawn('x = 1\n"""what is not clo')[6:] == "'" * 18


def annotated(body: kdtool.Text | kdtool.Completion | kdtool.Messages, language: str = "", own: str = "") -> str:
    weighting = Syntax(Syntax.Config(language=own))
    (found,) = weighting.kdtool_annotate(kdtool.Example("a", body, language=language)).values()
    return "".join(LETTERS[SYNTAX_CLASSES[number]] for number in found)


def test_the_example_s_language_comes_before_the_setting() -> None:
    text = kdtool.Text("let x = 1;")
    assert annotated(text) == "_" * 10
    assert annotated(text, own="rust") == "kkk n + 1("
    assert annotated(text, language="rust", own="python") == "kkk n + 1("
    assert annotated(text, language="klingon", own="rust") == "_" * 10, "it is another language, not none"


def test_a_completion_goes_on_where_its_prompt_ends() -> None:
    assert annotated(kdtool.Completion('x = "a', ' if b" + 1'), "python") == "n + ''" + "'''''' + 1"


def test_of_a_conversation_code_in_fences_alone_is_read() -> None:
    answer = "for it:\n```python\nfor x\n```\nand if\n```\nlet y\n```\n"
    talk = kdtool.Messages((("user", "is it?"), ("assistant", answer), ("assistant", "```rust\nlet z")))
    # the question, then both answers, each with its code between the fences
    expected = "______" + "_" * 18 + "kkk n " + "_" * 15 + "kkk n " + "____" + "_" * 8 + "kkk n"
    assert annotated(talk, "rust") == expected


def test_a_language_that_nobody_knows_is_refused_as_a_setting() -> None:
    with pytest.raises(pydantic.ValidationError, match="unknown language 'pythn'"):
        Syntax.Config(language="pythn")
