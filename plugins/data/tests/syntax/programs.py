"""Random valid programs in the languages of tree-sitter, as tokens, and ways to break them for certain."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

Tokens = list[str]
_OPERATORS = ("+", "-", "*", "%")
_SHARED: Mapping[str, Sequence[str]] = {
    "program": ["<functions>"],
    "functions": ["<function>", "<function> <function>", "<function> <function> <function>"],
    "function": ["<head> { \n <print> <statement> <statement> return <sum> <end> } \n"],
    "block": ["{ \n <simple> <simple> }", "{ \n <statement> <simple> }"],
    "statement": ["<simple>", "if <test> <block> \n", "if <test> <block> else <block> \n", "<loop> <test> <block> \n"],
    "simple": ["<declaration>", "<name> = <sum> <end>", "<name> += <sum> <end>", "<print>"],
    "loop": ["while"],
    "test": ["( <comparison> )"],
    "comparison": [f"<sum> {sign} <sum>" for sign in ("<", ">", "<=", ">=", "==", "!=")],
    "sum": ["<term>", "<term> <operator> <term>", "<term> <operator> <term> <operator> <term>"],
    "term": ["<name>", "<number>", "( <name> <operator> <number> )"],
    "name": ["total", "index", "found", "left", "right", "item", "width", "depth", "cost", "limit"],
    "number": [str(number) for number in range(1, 1000)],
    "operator": _OPERATORS,
    "end": ["; \n"],
}
"""A rule's texts, of which one is drawn; a token is what stands between spaces."""
_LANGUAGES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "java": {
        "program": ["import java.util.* ; \n public class Work { \n <functions> }"],
        "head": ["static int <name> ( int <name> , List<Integer> <name> )"],
        "declaration": ["int <name> = <sum> <end>"],
        "print": ['System.out.println ( "<name>" + <sum> ) <end>'],
    },
    "javascript": {
        "head": ["function <name> ( <name> , items )", "async function <name> ( <name> , items = [] )"],
        "declaration": ["let <name> = <sum> <end>", "const <name> = <sum> <end>"],
        "print": ['console.log ( "<name>" , <sum> ) <end>'],
    },
    "go": {
        "program": ['package work \n import "fmt" \n <functions>'],
        "head": ["func <name> ( <name> int , items []int ) int"],
        "declaration": ["<name> := <sum> <end>"],
        "print": ['fmt.Println ( "<name>" , <sum> ) <end>'],
        "loop": ["for"],
        "test": ["<comparison>"],
        "end": ["\n"],
    },
    "rust": {
        "head": ["pub fn <name> ( <name> : i64 , items : &[i64] ) -> i64"],
        "declaration": ["let mut <name> = <sum> <end>"],
        "print": ['println! ( "{}" , <name> ) <end>'],
        "test": ["<comparison>"],
    },
    "cpp": {
        "program": ["#include\t<iostream>\n using namespace std ; \n <functions>"],
        "head": ["int <name> ( int <name> , const vector<int> & items )"],
        "declaration": ["int <name> = <sum> <end>", "auto <name> = <sum> <end>"],
        "print": ['cout << "<name>" << ( <sum> ) <end>'],
    },
}


def program(language: str, seed: int) -> Tokens:
    """Return functions of nested loops, conditions, assignments and calls."""
    drawn, rules = random.Random(f"{language} {seed}"), {**_SHARED, **_LANGUAGES[language]}

    def expand(text: str) -> str:
        return re.sub(
            r"<(\w+)>", lambda rule: expand(drawn.choice(rules[rule[1]])) if rule[1] in rules else rule[0], text
        )

    return expand("<program>").split(" ")


def write(tokens: Sequence[str]) -> str:
    return " ".join(tokens).replace("\n ", "\n")


def broken(tokens: Tokens, seed: int) -> Iterator[tuple[str, str]]:
    """Yield what was done, and a program that no compiler takes."""
    drawn = random.Random(seed)
    brackets = [place for place, token in enumerate(tokens) if token in {"(", ")", "{", "}"}]
    texts = [place for place, token in enumerate(tokens) if token.startswith('"')]
    operators = [place for place, token in enumerate(tokens) if token in _OPERATORS]
    place = drawn.choice(brackets)
    yield "bracket missing", write([*tokens[:place], *tokens[place + 1 :]])
    place = drawn.choice(brackets)
    yield "bracket twice", write([*tokens[:place], tokens[place], *tokens[place:]])
    if texts:
        place = drawn.choice(texts)
        yield "quote missing", write([*tokens[:place], tokens[place].removesuffix('"'), *tokens[place + 1 :]])
    if operators:
        place = drawn.choice(operators)
        yield "operator twice", write([*tokens[:place], "%", "%", *tokens[place + 1 :]])
    depth = list(accumulate((one == "{") - (one == "}") for one in tokens))
    cut = drawn.choice([place for place, opened in enumerate(depth) if opened])
    yield "cut short", write(tokens[: cut + 1])
