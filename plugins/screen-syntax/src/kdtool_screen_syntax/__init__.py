"""The screen `syntax`: no code that does not parse.

`_screen` judges examples, `_code` finds the code in them, `_parsers` parses it.
"""

from __future__ import annotations

from kdtool_screen_syntax._code import Code, code_of, fenced_code
from kdtool_screen_syntax._parsers import LANGUAGES, language_of, parses
from kdtool_screen_syntax._screen import SyntaxScreen

__all__ = ["LANGUAGES", "Code", "SyntaxScreen", "code_of", "fenced_code", "language_of", "parses"]
