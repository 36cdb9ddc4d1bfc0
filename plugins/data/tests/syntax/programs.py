"""Random valid programs in the languages of tree-sitter, as tokens, and ways to break them for certain."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from typing import TypeVar

Tokens = list[str]
T = TypeVar("T")
_NAMES = ("total", "index", "found", "left", "right", "item", "width", "depth", "cost", "limit")
_OPERATORS = ("+", "-", "*", "%")
_COMPARISONS = ("<", ">", "<=", ">=", "==", "!=")


class Writer:
    """Writes functions of nested loops, conditions, assignments and calls; each language declares and prints its own way."""

    def __init__(self, language: str, seed: int) -> None:
        self._language = language
        self._random = random.Random(f"{language} {seed}")

    def program(self) -> Tokens:
        functions = [self._function(f"step{number}") for number in range(self._random.randint(1, 4))]
        body = [*chain.from_iterable(functions)]
        return {
            "java": lambda: ["import", "java.util.*", ";", "\n", "public", "class", "Work", "{", "\n", *body, "}"],
            "go": lambda: ["package", "work", "\n", "import", '"fmt"', "\n", *body],
            "cpp": lambda: ["#include <iostream>\n", "using", "namespace", "std", ";", "\n", *body],
        }.get(self._language, lambda: body)()

    def _function(self, name: str) -> Tokens:
        first, second = self._random.sample(_NAMES, 2)
        head = {
            "java": ["static", "int", name, "(", "int", first, ",", "List<Integer>", second, ")"],
            "javascript": self._choose(
                ["function", name, "(", first, ",", second, ")"],
                ["async", "function", name, "(", first, ",", second, "=", "[]", ")"],
            ),
            "go": ["func", name, "(", first, "int", ",", second, "[]int", ")", "int"],
            "rust": ["pub", "fn", name, "(", first, ":", "i64", ",", second, ":", "&[i64]", ")", "->", "i64"],
            "cpp": ["int", name, "(", "int", first, ",", "const", "vector<int>", "&", second, ")"],
        }[self._language]
        return [*head, *self._block(self._random.randint(2, 4), 2, returns=True), "\n"]

    def _block(self, statements: int, depth: int, *, returns: bool = False) -> Tokens:
        inner = [*chain.from_iterable(self._statement(depth) for _ in range(statements))]
        last = ["return", *self._sum(), *self._end()] if returns else []
        return ["{", "\n", *inner, *last, "}"]

    def _statement(self, depth: int) -> Tokens:
        simple: list[Callable[[], Tokens]] = [self._declaration, self._assignment, self._print]
        nested: list[Callable[[], Tokens]] = [lambda: self._if(depth), lambda: self._while(depth)]
        return self._random.choice(simple if depth == 0 else simple + nested)()

    def _declaration(self) -> Tokens:
        name = self._random.choice(_NAMES)
        start = {
            "java": ["int", name, "="],
            "javascript": [self._choose("let", "const"), name, "="],
            "go": [name, ":="],
            "rust": ["let", "mut", name, "="],
            "cpp": [self._choose("int", "auto"), name, "="],
        }[self._language]
        return [*start, *self._sum(), *self._end()]

    def _assignment(self) -> Tokens:
        return [self._random.choice(_NAMES), self._choose("=", "+=", "-="), *self._sum(), *self._end()]

    def _print(self) -> Tokens:
        text = f'"{self._random.choice(_NAMES)} is {self._random.randint(0, 99)}"'
        call = {
            "java": ["System.out.println", "(", text, "+", *self._sum(), ")"],
            "javascript": ["console.log", "(", text, ",", *self._sum(), ")"],
            "go": ["fmt.Println", "(", text, ",", *self._sum(), ")"],
            "rust": ["println!", "(", '"{} {}"', ",", text, ",", " ".join(self._sum()), ")"],  # a macro's own
            "cpp": ["cout", "<<", text, "<<", "(", *self._sum(), ")"],
        }[self._language]
        return [*call, *self._end()]

    def _if(self, depth: int) -> Tokens:
        found = ["if", *self._condition(), *self._block(1, depth - 1)]
        if self._random.random() < 0.5:
            found += ["else", *self._block(1, depth - 1)]
        return [*found, "\n"]

    def _while(self, depth: int) -> Tokens:
        word = "for" if self._language == "go" else "while"
        return [word, *self._condition(), *self._block(2, depth - 1), "\n"]

    def _condition(self) -> Tokens:
        test = [*self._sum(), self._random.choice(_COMPARISONS), *self._sum()]
        return test if self._language in {"go", "rust"} else ["(", *test, ")"]

    def _sum(self) -> Tokens:
        terms = [self._term() for _ in range(self._random.randint(1, 3))]
        found = terms[0]
        for term in terms[1:]:
            found = [*found, self._random.choice(_OPERATORS), *term]
        return found

    def _term(self) -> Tokens:
        kind = self._random.random()
        if kind < 0.4:
            return [self._random.choice(_NAMES)]
        if kind < 0.6:
            return [
                "(",
                self._random.choice(_NAMES),
                self._random.choice(_OPERATORS),
                str(self._random.randint(1, 9)),
                ")",
            ]
        return [str(self._random.randint(0, 999))]

    def _end(self) -> Tokens:
        return ["\n"] if self._language == "go" else [";", "\n"]

    def _choose(self, *options: T) -> T:
        return self._random.choice(options)


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
