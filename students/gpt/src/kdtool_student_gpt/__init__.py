"""Student plugin `gpt`, and the library of decoders that start from random weights.

`Gpt` is a decoder with the recipe's number of parameters. `LlamaStudent` is a complete student for plugins that only define
its shape (`LlamaShape`). Light: torch and transformers load in hooks.
"""

from __future__ import annotations

from kdtool_student_gpt._llama import LlamaShape as LlamaShape
from kdtool_student_gpt._student import Gpt as Gpt
from kdtool_student_gpt._student import LlamaStudent as LlamaStudent
from kdtool_student_gpt._student import LlamaStudentConfig as LlamaStudentConfig
