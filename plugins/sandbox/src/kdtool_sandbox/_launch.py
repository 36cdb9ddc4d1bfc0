"""Started by root: gives up root for good, and starts the sandbox as a user who owns nothing.

Run as a script: folders that the sandbox needs as a JSON list, then the command. Where such a folder lies below one that
only root may enter, that one is covered with an empty file system, in this process's own view of files, and the folder
put back in its place. The limit of processes does not bind root, and a hole in the kernel would find root.
"""

import ctypes
import json
import os
import sys
from pathlib import Path

_NOBODY = 65534
_NEW_MOUNTS, _BIND, _RECURSIVE, _PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
_ANYBODY_MAY_ENTER = 0o001


def main(folders: list[Path], command: list[str]) -> None:
    """Become nobody and run the command instead of this."""
    covers = {folder: cover for folder in folders if (cover := _closed(folder))}
    if covers:
        _uncover(covers)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    os.execv(command[0], command)  # noqa: S606 (no shell is wanted)


def _closed(folder: Path) -> Path | None:
    """Return the uppermost folder on the way that others may not enter."""
    for place in (*reversed(folder.parents), folder):
        if not place.stat().st_mode & _ANYBODY_MAY_ENTER:
            return place
    return None


def _uncover(covers: dict[Path, Path]) -> None:
    library = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: Path, flags: int, kind: bytes | None = None, data: bytes | None = None) -> None:
        if library.mount(source.encode(), os.fsencode(target), kind, flags, data) != 0:
            raise OSError(ctypes.get_errno(), f"{target} cannot be shown to the sandbox alone")

    if library.unshare(_NEW_MOUNTS) != 0:
        raise OSError(ctypes.get_errno(), "root may not make a view of files of its own here")
    mount("none", Path("/"), _RECURSIVE | _PRIVATE)
    opened = {folder: os.open(folder, os.O_PATH | os.O_CLOEXEC) for folder in covers}
    for cover in sorted(set(covers.values())):
        mount("tmpfs", cover, 0, b"tmpfs", b"mode=755")
    for folder, descriptor in opened.items():
        folder.mkdir(parents=True)
        mount(f"/proc/self/fd/{descriptor}", folder, _BIND | _RECURSIVE)


if __name__ == "__main__":
    try:
        main([Path(folder) for folder in json.loads(sys.argv[1])], sys.argv[2:])
    except OSError as refused:
        sys.exit(f"{refused}: run as a user who is not root, with a Python that this user can read")
