"""Student plugin `gpt`: a decoder that starts from random weights, of as many parameters as a recipe says.

`Gpt` is the student; `_solve` finds its shape; all else is `kdtool_transformers.LlamaStudent`.
"""

from __future__ import annotations

from kdtool_student_gpt._student import Gpt

__all__ = ["Gpt"]
