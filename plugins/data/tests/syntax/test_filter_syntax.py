"""The filter `syntax`: the suite of filters, and where code is looked for in an example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_data.syntax import LANGUAGES, SyntaxFilter, fenced_code, language_of, parses
from kdtool_testing import FilterConformance, make_run

GOOD = {
    "python": "def f(x):\n    return x\n",
    "javascript": "const f = (x) => x;\n",
    "java": "class A { int f(int x) { return x; } }\n",
    "cpp": "#include <typeinfo>\nbool f(int x) { return typeid(int) == typeid(x); }\n",
    "go": "package a\n\nfunc f(x int) int { return x }\n",
    "rust": "fn f(x: i64) -> i64 { x }\n",
}
BAD = {language: code[: code.rindex("x")] + "(" for language, code in GOOD.items()}


def reason(body: kdtool.Text | kdtool.Completion | kdtool.Messages, language: str = "", **settings: Any) -> str | None:
    filter_ = SyntaxFilter(SyntaxFilter.Config.model_validate(settings))
    (answer,) = filter_.kdtool_filter(make_run(Path()), [kdtool.Example("a", body, language=language)])
    return answer


def talk(answer: str, question: str = "How?") -> kdtool.Messages:
    return kdtool.Messages((("user", question), ("assistant", answer)))


class TestSyntax(FilterConformance):
    component = SyntaxFilter
    entry_point = "syntax"

    def examples(self) -> tuple[Sequence[kdtool.Example], Sequence[kdtool.Example]]:
        kept = [kdtool.Example(f"+{name}", kdtool.Text(code), language=name) for name, code in GOOD.items()]
        return kept, [kdtool.Example(f"-{name}", kdtool.Text(code), language=name) for name, code in BAD.items()]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_answers_blocks_are_read(language: str) -> None:
    answer = "So:\n\n```{}\n{}```\n\nThat is all.".format
    assert reason(talk(answer(language, GOOD[language]))) is None
    assert reason(talk(answer(language, BAD[language]))) == f"{language} does not parse"
    assert reason(talk(answer("", BAD[language])), language) == f"{language} does not parse"
    assert reason(talk(answer("", BAD[language])), language="") is None, "in no language"
    assert reason(talk(answer("", BAD[language])), language=language) is not None
    assert reason(kdtool.Completion("Write it.", answer(language, BAD[language]))) == f"{language} does not parse"
    others = [name for name in LANGUAGES if name != language]
    assert reason(talk(answer(language, BAD[language])), languages=others) is None


def test_a_question_may_hold_broken_code() -> None:
    question = f"Repair this:\n```python\n{BAD['python']}\n```"
    assert reason(talk(f"```python\n{GOOD['python']}```", question), "python") is None
    pair = kdtool.Preference(question, f"```python\n{GOOD['python']}```", BAD["python"])
    assert reason(pair, "python") is None


def test_a_completion_is_code_alone_or_behind_its_prompt() -> None:
    assert reason(kdtool.Completion("def f(x):\n", "    return x\n"), "python") is None
    assert reason(kdtool.Completion("Write a function.", GOOD["python"]), "python") is None
    assert reason(kdtool.Completion("Write a function.", ""), "python") is None, "a prompt without an answer"
    assert reason(kdtool.Completion("def f(x):\n", "    return (x\n"), "python") == "python does not parse"


def test_code_without_a_language_is_read_in_that_of_the_settings() -> None:
    assert reason(kdtool.Completion("", BAD["rust"]), language="") is None
    filter_ = SyntaxFilter(SyntaxFilter.Config(language="rust"))
    example = kdtool.Example("a", kdtool.Completion("", BAD["rust"]))
    assert list(filter_.kdtool_filter(make_run(Path()), [example])) == ["rust does not parse"]


def test_blocks_may_be_indented_unclosed_or_longer_fenced() -> None:
    text = "1. So:\n   ```py\n   x = 1\n   ```\n\n````md\n```python\n(\n```\n````\n~~~rust\nfn f() {}"
    found = list(fenced_code(text, "go"))
    assert [code.language for code in found] == ["py", "md", "rust"]
    assert [code.texts[0] for code in found] == ["x = 1\n", "```python\n(\n```\n", "fn f() {}"]


@given(st.text())
def test_no_text_is_an_error(text: str) -> None:
    for language in LANGUAGES:
        assert parses(text, language) in {True, False}
    assert reason(kdtool.Text(text)) is None or "```" in text or "~~~" in text
    assert sum(len(code.texts[0]) for code in fenced_code(text, "")) <= len(text)


def test_nesting_without_end_is_rejected() -> None:
    for code in ("(" * 10_000 + ")" * 10_000, "-" * 100_000 + "1", "x = " + "[" * 300 + "]" * 300, "a\0b"):
        assert not parses(code, "python")


def test_names_of_languages() -> None:
    assert [language_of(name) for name in ("C++", "py", " Rust", "golang", "cobol", "")] == [
        "cpp", "python", "rust", "go", "", "",
    ]  # fmt: skip
