"""Datasets: the fields that identify their records, and the problems made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import kdtool
from kdtool_measuring import Kind
from kdtool_programs import Form, Problem

__all__ = ["DataSet", "Record", "forms"]

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
