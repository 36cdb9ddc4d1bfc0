"""The filter of system calls: a deny list as a BPF program, for the supported processor architectures.

It refuses calls that reach beyond the sandbox, outlive a task, change other processes, or open much of the kernel: tracing,
shared memory except of files, queues, memory in files and pipes, namespaces and mounts, keyrings, BPF, io_uring, priorities,
limits of other processes, watching files, Landlock, attributes of files, and every socket except local ones. Buffers of
sockets cannot grow: asking for larger ones has no effect. Locks of parts of a file, which the kernel keeps in memory that
is counted nowhere, are granted to tasks without effect.
"""

from __future__ import annotations

import errno
import platform
import struct

from kdtool_programs.tasks import SandboxError

_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NO_ERROR = 0
"""A call that is refused with this has no effect, and the program takes it for done."""
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND, _THIRD, _FOURTH = 0, 4, 16, 24, 32, 40
_X32 = 0x40000000
_NAMESPACES = 0x7E020080  # CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_AF_UNIX = 1
_SHARED, _OF_NO_FILE = 0x01, 0x20  # MAP_SHARED, MAP_ANONYMOUS
_OF_SOCKETS, _SENDING_BUFFER = 1, 7  # SOL_SOCKET, SO_SNDBUF
_DUMPABLE = 4  # PR_SET_DUMPABLE
_LOCKS = (6, 7, 37, 38)  # F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW
_WATCH = 1026  # F_NOTIFY
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (x86_64, aarch64); -1 where the architecture has no such call
_DENIED: dict[str, tuple[int, int]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "vmsplice": (278, 75),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_setup": (206, 0),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "inotify_init": (253, -1),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "personality": (135, 92),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mbind": (237, 235),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
    "vhangup": (153, 58),
}
_OF_ITSELF_ONLY = {"prlimit64": (302, 261), "sched_setaffinity": (203, 122)}
"""Calls whose first argument is a process: 0, the caller itself, is allowed."""
_OF_THE_KEEPER = {"sched_setaffinity": (203, 122), "setsid": (112, 157)}
"""Calls that place a task on its processors and in its share of them: the keeper makes them before the task begins."""
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR, _IOCTL = (56, 220), (435, 435), (41, 198), (53, 199), (16, 29)
_MMAP, _SETSOCKOPT, _PRCTL, _FCNTL = (9, 222), (54, 208), (157, 167), (72, 25)


def seccomp_filter(machine: str = "") -> bytes:
    """Return the filter for a machine, this one by default.

    Raises:
        SandboxError: its architecture is not known here.
    """
    machine, column = _known_machine(machine)
    program = _beginning(machine)
    program += _refusals(_DENIED, column)
    program += [
        _step(_EQUAL, _CLONE3[column], 0, 1),
        _refuse(errno.ENOSYS),
    ]  # flags lie in memory; libc takes clone then
    for numbers in _OF_ITSELF_ONLY.values():
        program += _check(numbers[column], [_step(_LOAD, _FIRST), _step(_EQUAL, 0, 1, 0), _refuse(errno.EPERM)])
    for numbers in (_SOCKET, _SOCKETPAIR):
        check = [_step(_LOAD, _FIRST), _step(_EQUAL, _AF_UNIX, 1, 0), _refuse(errno.EAFNOSUPPORT)]
        program += _check(numbers[column], check)
    program += _check(_CLONE[column], [_step(_LOAD, _FIRST), _step(_ANY_BIT, _NAMESPACES, 0, 1), _refuse(errno.EPERM)])
    both = [_step(_ANY_BIT, _SHARED, 0, 2), _step(_ANY_BIT, _OF_NO_FILE, 0, 1), _refuse(errno.EPERM)]
    program += _check(_MMAP[column], [_step(_LOAD, _FOURTH), *both])
    ignored = [_step(_LOAD, _THIRD), _step(_EQUAL, _SENDING_BUFFER, 0, 1), _refuse(_NO_ERROR)]
    program += _check(
        _SETSOCKOPT[column], [_step(_LOAD, _SECOND), _step(_EQUAL, _OF_SOCKETS, 0, len(ignored)), *ignored]
    )
    check = [step for command in _TERMINAL_INPUT for step in (_step(_EQUAL, command, 0, 1), _refuse(errno.EPERM))]
    program += _check(_IOCTL[column], [_step(_LOAD, _SECOND), *check])
    check = [_step(_LOAD, _FIRST), _step(_EQUAL, _DUMPABLE, 0, 1), _refuse(errno.EPERM)]
    program += _check(_PRCTL[column], check)
    program.append(_step(_RETURN, _ALLOW))
    return b"".join(program)


def task_filter(machine: str = "") -> bytes:
    """Return the additional filter of a task's processes. Raises as `seccomp_filter`."""
    machine, column = _known_machine(machine)
    locks = [step for command in _LOCKS for step in (_step(_EQUAL, command, 0, 1), _refuse(_NO_ERROR))]
    check = [_step(_LOAD, _SECOND), *locks, _step(_EQUAL, _WATCH, 0, 1), _refuse(errno.EPERM)]
    program = [*_beginning(machine), *_refusals(_OF_THE_KEEPER, column), *_check(_FCNTL[column], check)]
    return b"".join([*program, _step(_RETURN, _ALLOW)])


def _known_machine(machine: str) -> tuple[str, int]:
    machine = machine or platform.machine()
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if machine not in _AUDIT:
        raise SandboxError(
            f"system calls are not filtered on {machine}: only on {' and '.join(_AUDIT)}; evaluate on such a machine"
        )
    return machine, list(_AUDIT).index(machine)


def _beginning(machine: str) -> list[bytes]:
    """Return the steps that end programs of another architecture, and leave the number of the call to compare."""
    return [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, _AUDIT[machine], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        *([_step(_AT_LEAST, _X32, 0, 1), _refuse(errno.EPERM)] if machine == "x86_64" else []),
    ]


def _refusals(calls: dict[str, tuple[int, int]], column: int) -> list[bytes]:
    numbers = [each[column] for each in calls.values() if each[column] >= 0]
    return [step for number in numbers for step in (_step(_EQUAL, number, 0, 1), _refuse(errno.EPERM))]


def _check(number: int, steps: list[bytes]) -> list[bytes]:
    """Run `steps` for one call only, then allow it; the accumulator must contain the call's number."""
    return [_step(_EQUAL, number, 0, len(steps) + 1), *steps, _step(_RETURN, _ALLOW)]


def _step(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, true, false, value)


def _refuse(number: int) -> bytes:
    return _step(_RETURN, _REFUSE | number)
