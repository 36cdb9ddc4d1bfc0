"""Check that torch.compile can work here: a C++ compiler and Python's headers for a CPU, Triton for a GPU.

Asked by `Compile` before anything is made. Nothing is compiled.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from kdtool_torch import pick_device

__all__ = ["missing"]

_COMPILERS = {"win32": "cl", "darwin": "clang++"}
_GET = {
    "win32": "install Visual Studio's build tools with C++ and start kdtool from their command prompt",
    "darwin": "xcode-select --install",
}


def missing() -> list[str]:
    """Return the missing parts, each with its remedy."""
    leave = "or leave `compile` out"
    if pick_device().type == "cuda":
        return (
            []
            if find_spec("triton")
            else [f"Triton, which compiles for GPUs, is not installed: pip install triton, {leave}"]
        )
    problems = []
    compiler = os.environ.get("CXX") or _COMPILERS.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        get = _GET.get(sys.platform, "apt install g++ (or what your system calls it), or name one in the variable CXX")
        problems.append(f"there is no C++ compiler called {compiler}: {get}, {leave}")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        problems.append(
            f"Python's header files are missing: apt install python3-dev (or what your system calls it), {leave}"
        )
    return problems
