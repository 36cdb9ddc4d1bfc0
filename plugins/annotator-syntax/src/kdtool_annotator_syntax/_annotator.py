"""The annotator `syntax`, and its classification as a plain function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version

import kdtool
import pydantic

from kdtool_annotator_syntax._classes import is_known, syntax_classes
from kdtool_annotator_syntax._fences import stretches

__all__ = ["Syntax"]


class Syntax(kdtool.Annotator):
    """Tells comments, strings, numbers, operators, punctuation, keywords and names of code apart, by pygments.

    A text is read in the example's language. Of a conversation the code between ``` is read, each piece on its own, in the
    language that stands there or else the example's. Everything else is `other`.
    """

    columns = frozenset({"syntax"})
    config: Config

    class Config(kdtool.Config):
        """Settings of `syntax`."""

        language: str = kdtool.Field(default="", max_length=50)
        """The language of examples that name none, as pygments calls it (python, c++, rust …); empty for none."""

        @pydantic.field_validator("language")
        @classmethod
        def _check_language(cls, language: str) -> str:
            if language and not is_known(language):
                raise ValueError(f"unknown language {language!r}; the documentation of pygments lists the short names")
            return language

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Give the version of pygments, by which classes may differ."""
        return {"pygments": version("pygments")}

    def kdtool_annotate(self, example: kdtool.Example) -> Mapping[str, bytes]:
        """Return the class of each character."""
        language = example.language or self.config.language
        return {"syntax": b"".join(syntax_classes(text, name) for text, name in _read(example.body, language))}


def _read(body: kdtool.Text | kdtool.Completion | kdtool.Messages, language: str) -> Iterator[tuple[str, str]]:
    """Yield the parts that are lexed separately, in order, each with its language, or "" if it is not code."""
    if isinstance(body, kdtool.Messages):
        for _, content in body.turns:
            yield from stretches(content, language)
    else:  # a completion goes on where its prompt ends
        yield "".join(kdtool.parts_of(body)), language
