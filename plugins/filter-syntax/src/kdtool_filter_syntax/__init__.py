"""The filter `syntax`: rejects code that does not parse.

`_filter` judges examples, `_code` finds the code in them, `_parsers` parses it.
"""

from __future__ import annotations

from kdtool_filter_syntax._code import Code, code_of, fenced_code
from kdtool_filter_syntax._filter import SyntaxFilter
from kdtool_filter_syntax._parsers import LANGUAGES, language_of, parses

__all__ = ["LANGUAGES", "Code", "SyntaxFilter", "code_of", "fenced_code", "language_of", "parses"]
