"""Student plugin `gpt`: a decoder that starts from random weights, with the recipe's number of parameters.

`Gpt` is the student; `_solve` finds its shape; all else is `kdtool_transformers.LlamaStudent`.
"""

from __future__ import annotations

from kdtool_student_gpt._student import Gpt

__all__ = ["Gpt"]
