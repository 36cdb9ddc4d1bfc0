"""The page's highlighter: each language's tokens, half-written code, and the guess of the language."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from page_window import open_window
from playwright.sync_api import Browser, Page

SAMPLES = {
    "python": (
        '@cache\nasync def area(n: int) -> float:\n    """Two\n    lines # "one" """\n'
        '    return f"{n}\\"" + 0x1F * 1.5e-3 # all\n',
        {"@cache": "type", "def": "keyword", "area": "call", '"""Two\n    lines # "one" """': "string"}
        | {'f"{n}\\""': "string", "0x1F": "number", "1.5e-3": "number", "# all": "comment"},
    ),
    "javascript": (
        "export const area = async (n) => `${n}\n'` + 'it\\'s'; // all\n/* two\nlines */ class Box {}",
        {"const": "keyword", "`${n}\n'`": "string", "'it\\'s'": "string", "// all": "comment"}
        | {"/* two\nlines */": "comment", "Box": "type"},
    ),
    "java": (
        "@Override\npublic static int area(char c) { return c == '\\n' ? 1_000L : new Box(\"a//b\").size(); }",
        {"@Override": "type", "public": "keyword", "area": "call"}
        | {"'\\n'": "string", "1_000L": "number", '"a//b"': "string"},
    ),
    "c": (
        "#include <stdio.h>\nstatic int area(unsigned n) { return n * 3.5f; } /* \"not a string */ char c = '\"';",
        {"#include": "type", "unsigned": "keyword", "area": "call", "3.5f": "number"}
        | {'/* "not a string */': "comment", "'\"'": "string"},
    ),
    "go": (
        'package main\nfunc area(n int) string { x := `raw\n"` ; return fmt.Sprint(x, \'a\', "b") } // all',
        {"package": "keyword", "func": "keyword", "area": "call"}
        | {'`raw\n"`': "string", "'a'": "string", "// all": "comment"},
    ),
    "rust": (
        "#[derive(Debug)]\nfn area<'a>(n: &'a str) -> u32 { println!(\"{n}\"); let c = 'x'; 0b1010_u8 }",
        {"#[derive(Debug)]": "type", "fn": "keyword", "'a": "type", "println!": "type", '"{n}"': "string"}
        | {"'x'": "string", "0b1010_u8": "number"},
    ),
    "shell": (
        "#!/bin/sh\nfor file in \"$@\"; do echo ${file#*.} 'it is' $HOME a#b; done # all",
        {"for": "keyword", '"$@"': "string", "${file#*.}": "type"}
        | {"'it is'": "string", "$HOME": "type", "# all": "comment"},
    ),
}


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with open_window(browser) as window:
        yield window.page


@pytest.mark.parametrize("language", SAMPLES)
def test_a_language_is_recognized_and_its_pieces_have_their_class(page: Page, language: str) -> None:
    code, wanted = SAMPLES[language]
    assert page.evaluate("code => languageOf(code)", code) == language
    found = page.evaluate("([code, language]) => tokens(code, language)", [code, language])
    assert "".join(text for _, text in found) == code
    classes = {text: kind for kind, text in found}
    assert {text: classes.get(text) for text in wanted} == wanted
    half_written = """([code, language]) => [...code].map((_, end) => code.slice(0, end))
        .filter(part => tokens(part, language).map(each => each[1]).join("") !== part)"""
    assert page.evaluate(half_written, [code, language]) == []


def test_an_answer_continues_the_string_that_the_prompt_began(page: Page) -> None:
    script = """() => {
      const before = 'x = \"\"\"one', text = ' two\"\"\"';
      return cut(tokens(before + text, "python"), before.length, before.length + text.length);
    }"""
    assert page.evaluate(script) == [["string", ' two"""']]


@pytest.mark.parametrize("text", ['"' * 5000, "\\" * 5000, "/*" * 5000, "a" * 20000, "'" + "\\'" * 5000, "`${" * 3000])
def test_no_text_takes_long(page: Page, text: str) -> None:
    script = """text => { const begin = performance.now();
      for (const name of Object.keys(LANGUAGES)) { tokens(text, name); languageOf(text); }
      return performance.now() - begin; }"""
    assert page.evaluate(script, text) < 2000
