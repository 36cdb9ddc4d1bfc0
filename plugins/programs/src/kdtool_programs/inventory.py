"""Started in the Python that programs will run in: prints, as JSON, the files that its standard library consists of.

Run as a script, with -I and -S, so that `sys.path` contains only the standard library. Every extension module in it is
imported, those of the packages in the arguments are loaded, and the loader is asked which shared libraries that took.
"""

import ctypes
import json
import os
import sys
from contextlib import suppress
from typing import Any

_NOT_FOR_PROGRAMS = ("_test", "_xx", "xx")
_WHEN_THREADS_END = "libgcc_s.so.1"


class _Loaded(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))


def main() -> None:
    """Print the search path, the shared libraries, the executable and the prefixes."""
    for folder in sys.path:
        if os.path.isdir(folder):  # noqa: PTH112 (pathlib is not needed)
            _import_extensions(folder)
    of_packages = [f"{folder}/{file}" for root in sys.argv[1:] for folder, _, files in os.walk(root) for file in files]
    for library in [_WHEN_THREADS_END, *(file for file in [*sys.argv[1:], *of_packages] if file.endswith(".so"))]:
        with suppress(OSError):
            ctypes.CDLL(library)
    inventory = {
        "path": [folder for folder in sys.path if os.path.exists(folder)],  # noqa: PTH110
        "libraries": _libraries(),
        "prefixes": [sys.base_prefix, sys.base_exec_prefix],
        "modules": sorted(sys.stdlib_module_names),
    }
    sys.stdout.write(f"\n{json.dumps(inventory)}\n")


def _import_extensions(folder: str) -> None:
    for file in sorted(os.listdir(folder)):  # noqa: PTH208
        name = file.partition(".")[0]
        if file.endswith(".so") and not name.startswith(_NOT_FOR_PROGRAMS):
            with suppress(Exception):  # a module that cannot be imported here cannot be inside, either
                __import__(name)


def _libraries() -> list[str]:
    """Return the paths of the libraries that this process has loaded, as the loader found them."""
    paths: list[str] = []

    def note(loaded: Any, _size: int, _data: object) -> int:
        paths.append(os.fsdecode(loaded.contents.name or b""))
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Loaded), ctypes.c_size_t, ctypes.c_void_p)
    ctypes.CDLL(None).dl_iterate_phdr(kind(note), None)
    return [path for path in paths if path.startswith("/")]


if __name__ == "__main__":
    main()
