"""The filter `syntax`: parses the code of each example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from platform import python_version

import kdtool

from kdtool_filter_syntax._code import code_of
from kdtool_filter_syntax._parsers import LANGUAGES, Language, language_of, parses

__all__ = ["SyntaxFilter"]


class SyntaxFilter(kdtool.Filter):
    """Rejects examples with code that does not parse in its language; code in other languages passes unchecked.

    Python is compiled and not executed, the others are parsed by tree-sitter. A text in one of the languages is parsed as a
    whole; in answers in Markdown, each fenced block is parsed.
    """

    class Config(kdtool.Config):
        """Settings of `syntax`."""

        languages: tuple[Language, ...] = kdtool.Field(default=LANGUAGES, min_length=1)
        """Languages to check; code in others passes."""
        language: Language | None = None
        """Language of code that does not name one; null lets such code pass."""

    config: Config

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the versions of Python and of the grammars, which may change the verdicts."""
        grammars = [name for name in self.config.languages if name != "python"]
        versions = {f"tree-sitter-{name}": version(f"tree-sitter-{name}") for name in grammars}
        return {**versions, **({"python": python_version()} if "python" in self.config.languages else {})}

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        """Return the language of the first code that does not parse, as `python does not parse`, or None."""
        return [self._filter(example) for example in examples]

    def _filter(self, example: kdtool.Example) -> str | None:
        for code in code_of(example):
            language = language_of(code.language) if code.language else self.config.language
            if language in self.config.languages and not any(parses(text, language) for text in code.texts):
                return f"{language} does not parse"
        return None
