"""Class of every character of code, by a lexer.

`Syntax` is the annotator that recipes call `syntax`; it gives the column `syntax`, whose numbers `kdtool.SYNTAX_CLASSES`
names. The plain function `syntax_classes` serves without kdtool. Pygments is imported when a text is read.
"""

from __future__ import annotations

from kdtool_annotator_syntax._annotator import Syntax
from kdtool_annotator_syntax._classes import syntax_classes

__all__ = ["Syntax", "syntax_classes"]
