"""The weighting `syntax`: the class of a token in its language (comment, keyword, name …) sets its weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import kdtool
import pydantic

from kdtool_weighting_tokens._classes import SYNTAX_CLASSES, is_known, syntax_classes
from kdtool_weighting_tokens._fences import stretches

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Syntax", "class_weight"]


def class_weight(classes: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weight of each position's class.

    Args:
        classes: [C] integers from 0; those without a weight count as 0.
        weights: of each class, in order, not negative.

    Returns:
        [C] float32, without unit.
    """
    table = classes.float().new_tensor(weights)
    return table[classes.where(classes < len(weights), 0)]


class Syntax(kdtool.Weighting):
    """Weighs tokens by their class in their language: keywords more, say, and comments less.

    It labels each character by pygments, as the column `syntax` of the phase's rows. A text is read in the example's
    language. In a conversation only the code between ``` is read, each piece separately, in the language named there, or
    the example's. Everything else is `other`. A token in which one class begins where another ends has the class of its
    first character that is not white space.
    """

    columns = frozenset({"syntax"})
    config: Config

    class Config(kdtool.Config):
        """The weight of each class, relative to the others."""

        language: str = kdtool.Field(default="", max_length=50)
        """The language of examples that name none, as pygments calls it (python, c++, rust …); empty for none."""
        other: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Text that is not code, or of an unknown language, and the end of a text."""
        whitespace: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """White space between tokens of the language."""
        comment: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Comments and documentation strings."""
        string: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Text in quotes."""
        number: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Numbers."""
        operator: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Operators that are signs, the dot included."""
        punctuation: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Brackets, commas, colons."""
        keyword: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Keywords, `and`, `in` and `not` included."""
        name: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Names of any kind."""

        @pydantic.field_validator("language")
        @classmethod
        def _check_language(cls, language: str) -> str:
            if language and not is_known(language):
                raise ValueError(f"unknown language {language!r}; the documentation of pygments lists the short names")
            return language

        @pydantic.model_validator(mode="after")
        def _something_weighs(self) -> Syntax.Config:
            if not any(self.of_classes):
                raise ValueError("all classes have the weight 0: nothing would be learned")
            return self

        @property
        def of_classes(self) -> list[float]:
            """The weights as they are set, in the order of `SYNTAX_CLASSES`."""
            return [getattr(self, name) for name in SYNTAX_CLASSES]

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._weights = config.of_classes
        self.label_key = config.language

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the version of pygments, since classes may differ between versions."""
        return {"pygments": version("pygments")}

    def kdtool_annotate(self, example: kdtool.Example) -> Mapping[str, bytes]:
        """Return the class of each character."""
        language = example.language or self.config.language
        return {"syntax": b"".join(syntax_classes(text, name) for text, name in _read(example.body, language))}

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the weight of each position's class, [C]."""
        return class_weight(chunk.columns["syntax"], self._weights)


def _read(body: kdtool.Text | kdtool.Completion | kdtool.Messages, language: str) -> Iterator[tuple[str, str]]:
    """Yield the parts that are lexed separately, in order, each with its language, or "" if it is not code."""
    if isinstance(body, kdtool.Messages):
        for _, content in body.turns:
            yield from stretches(content, language)
    else:  # a completion continues the text of its prompt
        yield "".join(kdtool.parts_of(body)), language
