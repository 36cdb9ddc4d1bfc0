"""Started by root: gives up root for good, and starts the sandbox as a user who owns nothing.

Run as a script: how many folders the sandbox needs, these folders, then the command. Where such a folder lies below one that
only root may enter, that one is covered with an empty file system, in this process's own view of files, and the folder
put back in its place. The limit of processes does not bind root, and a hole in the kernel would find root.

Each sandbox gets its own user, because the kernel counts pipes, pending signals and other things by user.

It starts with each worker, so it imports next to nothing.
"""

import ctypes
import os
import sys

_NOBODY = 65534
_FIRST_USER = 1_900_000_000
"""Added to the number of this process. Systems and containers assign lower numbers to users, and 2**31 is not reached."""
_NEW_MOUNTS, _BIND, _RECURSIVE, _PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
_ANYBODY_MAY_ENTER = 0o001


def main(folders: list[str], command: list[str]) -> None:
    """Become a user of no one else and run the command instead of this."""
    covers = {folder: cover for folder in folders if (cover := _find_closed(folder))}
    if covers:
        _uncover(covers)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    _become(_FIRST_USER + os.getpid())
    os.execv(command[0], command)  # noqa: S606 (no shell is wanted)


def _become(user: int) -> None:
    try:
        os.setresuid(user, user, user)
    except OSError:  # a container may have 65,536 users only
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _find_closed(folder: str) -> str | None:
    """Return the uppermost folder on the path that other users may not enter."""
    parts = folder.split("/")
    for end in range(1, len(parts) + 1):
        ancestor = "/".join(parts[:end]) or "/"
        if not os.stat(ancestor).st_mode & _ANYBODY_MAY_ENTER:  # noqa: PTH116
            return ancestor
    return None


def _uncover(covers: dict[str, str]) -> None:
    library = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, flags: int, kind: bytes | None = None, data: bytes | None = None) -> None:
        if library.mount(source.encode(), os.fsencode(target), kind, flags, data) != 0:
            raise OSError(ctypes.get_errno(), f"{target} cannot be mounted only in the sandbox")

    if library.unshare(_NEW_MOUNTS) != 0:
        raise OSError(ctypes.get_errno(), "root may not create a mount namespace here")
    mount("none", "/", _RECURSIVE | _PRIVATE)
    opened = {folder: os.open(folder, os.O_PATH | os.O_CLOEXEC) for folder in covers}
    for cover in sorted(set(covers.values())):
        mount("tmpfs", cover, 0, b"tmpfs", b"mode=755")
    for folder, descriptor in opened.items():
        os.makedirs(folder)  # noqa: PTH103
        mount(f"/proc/self/fd/{descriptor}", folder, _BIND | _RECURSIVE)


if __name__ == "__main__":
    count = int(sys.argv[1])
    try:
        main(sys.argv[2 : 2 + count], sys.argv[2 + count :])
    except OSError as refused:
        sys.exit(f"{refused}: run as a user who is not root, with a Python that this user can read")
