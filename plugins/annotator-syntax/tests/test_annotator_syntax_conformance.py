"""The suite of annotators, with and without a language of its own."""

from __future__ import annotations

from typing import ClassVar

from kdtool_annotator_syntax import Syntax
from kdtool_testing import AnnotatorConformance


class TestSyntax(AnnotatorConformance):
    component = Syntax
    entry_point = "syntax"


class TestSyntaxOfPython(AnnotatorConformance):
    component = Syntax
    entry_point = "syntax"
    settings: ClassVar = {"language": "python"}
