"""Language models of transformers as kdtool sees them: a library that teacher, student and exporter plugins share.

`open_model`, `open_tokenizer` and `open_runtime` open a folder (or a hub name); `TransformersModel`,
`TransformersTokenizer` and `TransformersRuntime` are what they give; `self_check` compares a wrapped model with itself
before training, `logits_kept` a rewritten one with what it was; `estimate_activation_memory` counts what training keeps of
an outline; `CausalTeacher` is a whole teacher for plugins that only say where the weights come from, `PublishedTeacher` one
for families whose models are known by name; `LlamaStudent` a whole student from random weights for plugins that only say its
shape, `CausalStudent` one for those that build it otherwise; `isolated_rng` keeps runs in one process apart. Names load when
first used, so that importing this package imports neither torch nor transformers. It has no entry points.
"""

from __future__ import annotations

import ast
import logging
from importlib import import_module
from pathlib import Path
from typing import Any


def _homes() -> dict[str, str]:
    """Return the module of each public name, as the stub beside this file lists them."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    return {alias.name: str(line.module) for line in imports for alias in line.names}


_HOME_OF = _homes()

# Where bitsandbytes is installed, peft imports it with transformers, and it warns of a kernel package that nobody asked for.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# Where torchao is installed, transformers imports it, and it tells of kernels for other GPUs and of its own enums.
logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "register_constant" not in record.getMessage())


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'kdtool_transformers' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value
