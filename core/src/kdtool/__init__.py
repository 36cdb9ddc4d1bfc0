"""kdtool: distil large code models into small ones, with plugins for every part.

Plugin authors import from here and from `kdtool_testing`; nothing else is promised. Names are loaded when they are first
used, so that `import kdtool` and the command line stay light.

Example, a loss in a file beside the recipe:

    import kdtool

    class Focal(kdtool.TokenLoss):
        \"\"\"Cross-entropy that looks at hard tokens.\"\"\"

        def kdtool_token_loss(self, chunk: kdtool.TokenChunk):
            log_probability = chunk.student_logits.float().log_softmax(-1).gather(-1, chunk.labels[:, None])[:, 0]
            return -(1 - log_probability.exp()) ** 2 * log_probability
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any


def _homes() -> dict[str, str]:
    """Return the module of each public name, as the stub beside this file lists them."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [line for line in stub.body if isinstance(line, ast.ImportFrom)]
    return {alias.name: str(line.module) for line in imports for alias in line.names}


_HOME_OF = _homes()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("kdtool")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'kdtool' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF, "__version__"})
