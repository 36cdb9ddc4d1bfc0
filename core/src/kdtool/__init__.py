"""kdtool: distil large code models into small ones, with plugins for every part.

Plugin authors import from here and from `kdtool_testing`; nothing else is promised. Names are imported when
one of them is first used, so that `import kdtool` and the command line stay light.

Example, a loss in a file next to the recipe:

    import kdtool

    class Focal(kdtool.TokenLoss):
        \"\"\"Cross-entropy that looks at hard tokens.\"\"\"

        def kdtool_token_loss(self, chunk: kdtool.TokenChunk):
            log_probability = chunk.student_logits.float().log_softmax(-1).gather(-1, chunk.labels[:, None])[:, 0]
            return -(1 - log_probability.exp()) ** 2 * log_probability
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtool._engine_interface import *
    from kdtool._plugin_interface import *
    from kdtool._plugin_interface import __version__ as __version__
else:
    _INTERFACES = ("kdtool._plugin_interface", "kdtool._engine_interface")

    def __getattr__(name: str) -> Any:
        for interface in _INTERFACES if name == "__version__" or not name.startswith("_") else ():
            if hasattr(module := import_module(interface), name):
                value = globals()[name] = getattr(module, name)  # plugins use names in hot loops
                return value
        raise AttributeError(f"module 'kdtool' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(name for interface in _INTERFACES for name in vars(import_module(interface)) if name[0] != "_")
