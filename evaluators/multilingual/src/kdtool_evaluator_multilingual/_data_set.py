"""Datasets: the fields that identify their records, and the problems made of them.

Also the changes to a program's text, for every dataset, that make answers and tests fit together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import kdtool
from kdtool_measuring import Kind
from kdtool_programs import Form, Problem

Record = Mapping[str, Any]
_INSTRUCTION = "Write a solution to the following problem and make sure that it passes the tests:\n"
_OPENING = "Here is the completed function:\n"


@dataclass(frozen=True)
class DataSet:
    """One of the datasets.

    Its records have the fields `needed`, and the fields `more` in some languages. `language` returns a record's language by
    the dataset's name; `languages` maps these names to the sandbox's. `seconds` is the time that the dataset's own harness
    allows a program, and `harness` names, for each form, the harness with the same prompts and stop strings.
    """

    name: str
    needed: Mapping[str, Kind]
    more: Mapping[str, Mapping[str, Kind]]
    languages: Mapping[str, str]
    language: Callable[[Record], str]
    problem: Callable[[str, Record], Problem]
    """Makes a problem of a language, as the sandbox calls it, and a record."""
    seconds: float
    harness: Mapping[str, str]
    terms: kdtool.LicenceTerms
    left_out: Mapping[str, str]
    """Problems that cannot be judged, with the reason, by their ids."""


def forms(language: str, prompt: str, stop: tuple[str, ...]) -> Mapping[Literal["base", "chat"], Form]:
    """Return the ways to ask for the continuation of `prompt`, the beginning of a program."""
    asked = f"{_INSTRUCTION}```{language}\n{prompt}\n```\n"
    opening = f"{_OPENING}```{language}\n{prompt}"
    return {"base": Form((), prompt, stop), "chat": Form((("user", asked),), opening, (*stop, "\n```"))}


_IMPORTS = re.compile(r"^(?:#include|import|using)\b.*$", re.MULTILINE)
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.MULTILINE)
_GO_PACKAGE = re.compile(r"^package\s+\w+[ \t]*$", re.MULTILINE)
_GO_IMPORT = re.compile(r"^import\s*(?:\(([^)]*)\)|(.+)$)", re.MULTILINE)
_GO_COMMENT = re.compile(r"//.*$", re.MULTILINE)
_GO_PACKAGES = ("math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5")
"""Packages that CodeGeeX imports for an answer that uses them (codegeex/benchmark/utils.py, IMPORT_HELPER)."""


def close_function(code: str, closing: Sequence[str]) -> str:
    """Return the code that continues an open function, with the closing lines if a stop string cut them.

    Braces are counted as CodeGeeX counts them, also in strings and comments; one at the beginning of a line ends it all.

    Args:
        code: as it was generated.
        closing: the lines that close the function and the blocks around it, innermost first.
    """
    if re.search(r"^\}", code, re.MULTILINE):
        return code
    still_open = len(closing) + code.count("{") - code.count("}")
    return "\n".join((code, *closing[len(closing) - min(max(still_open, 0), len(closing)) :], ""))


def end_macros(code: str) -> str:
    """Return a C++ program with its macros undefined at the end, so that they do not apply to its tests."""
    return "\n".join((code, *(f"#undef {name}" for name in _MACRO.findall(code)), ""))


def imports_of(prompt: str) -> str:
    """Return the lines of a prompt that import or include."""
    return "".join(f"{line}\n" for line in _IMPORTS.findall(prompt))


def without_main(code: str) -> str:
    """Return a whole program with another name for its `main`: the tests bring their own."""
    return re.sub(r"\bmain(?=\s*\()", "main_of_the_answer", code)


def go_program(setup: str, prompt: str, code: str) -> str:
    """Return a Go program without its tests: Go wants one package clause, and imports that are all used.

    Args:
        setup: package clause and imports of the tests.
        prompt: the code between them and the answer.
        code: an answer, with or without imports.
    """
    imported = [
        spec.strip() for match in _GO_IMPORT.findall(code) for spec in "".join(match).split("\n") if spec.strip()
    ]
    code = _GO_IMPORT.sub("", _GO_PACKAGE.sub("", code))
    used = _GO_COMMENT.sub("", code)
    wanted = dict.fromkeys([*imported, *(f'"{package}"' for package in _GO_PACKAGES)])
    imports = [spec for spec in wanted if spec not in setup and re.search(rf"\b{_go_name(spec)}\.", used)]
    return "\n".join((setup, *(f"import {spec}" for spec in imports), prompt + code))


def _go_name(imported: str) -> str:
    """Return the name of a package in a program: the alias of its import, or the end of its path."""
    given, _, path = imported.rpartition(" ")
    return re.escape(given or path.strip('"').rpartition("/")[2])
