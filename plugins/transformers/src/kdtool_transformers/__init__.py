"""Language models of transformers: a library that teacher, student and exporter plugins share.

Start at `model.py`, which makes a model of transformers a `kdtool.LanguageModel`, and `opening.py`, which opens one from a
folder or by its Hub name. `teacher.py` and `student.py` are components on top of these.

- Models: `open_model`, `open_tokenizer` and `outline_of`, a model without memory for its weights, for checks
- Teachers and students: subclass `CausalTeacher` to locate weights only, `PublishedTeacher` for a published family,
  `CausalStudent` to build the model only
- Text: `TransformersRuntime` scores and answers; `streaming` yields answers while they are generated
- Transforms: `lora`, `qlora`, `qat`, `compile` and `liger`, in `transforms.py`
- Model cards: `card`

Names load when first used, so that importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

import ast
import logging
from importlib import import_module
from pathlib import Path
from typing import Any


def _homes() -> dict[str, str]:
    """Return the module of each public name, as the stub next to this file lists them."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    return {alias.name: str(line.module) for line in imports for alias in line.names}


_HOME_OF = _homes()
# If bitsandbytes is installed, peft imports it with transformers, and it warns of a missing kernel package.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# If torchao is installed, transformers imports it, and it logs messages on kernels for other GPUs and on its enums.
logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "register_constant" not in record.getMessage())


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'kdtool_transformers' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
