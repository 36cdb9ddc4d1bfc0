"""The first code inside the sandbox: makes modules of the texts in the first frame, and serves.

Written out by hand, because each of `importlib`'s modules would make every later fork dearer.
"""

import json
import os
import sys
from types import ModuleType


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            sys.exit("nobody is there")
        data += part
    return data


greeting = json.loads(_read(int.from_bytes(_read(8), "big")))
for name, text in greeting.pop("modules"):  # in an order in which each finds what it imports
    module = sys.modules[name] = ModuleType(name)
    module.__path__ = []
    exec(compile(text, name, "exec"), vars(module))  # noqa: S102 (our own modules)

from kdtool_sandbox._inside.server import serve  # noqa: E402 (found only now)

serve(greeting)
