"""Programs that want a verdict they do not deserve, or more of the machine than they should have.

`FORGERS` and `FLOODS` must not pass tests that expect `f(1) == 2`, `DYING` none that expect an exception. Each of
`ATTEMPTS` tries something and returns what came of it: its tests pass only if it was refused.
"""

from __future__ import annotations

HONEST = "def f(x):\n    return x + 1\n"
WRONG = "def f(x):\n    return 'wrong'\n"


def _writing(*frames: str, after: str = "os._exit(0)") -> str:
    """Return a program that writes frames, expressions of bytes, to the tests, and ends."""
    lines = "".join(f"    os.write(4, {frame})\n" for frame in frames)
    return f"import os\ndef f(x):\n{lines}    {after}\n"


def _saying(*messages: str, after: str = "os._exit(0)") -> str:
    """Return a program that sends messages, in JSON, to the tests, and ends."""
    return _writing(
        *(f"({len(message)}).to_bytes(8, 'big') + {message.encode()!r}" for message in messages), after=after
    )


def _endless(action: str, before: str = "pass") -> str:
    """Return a program that does something over and over, refused or not."""
    return f"""\
import os, socket, subprocess, sys, threading, time
def f(x):
    n, kept, loop = 0, [], lambda: None
    {before}
    while True:
        n += 1
        try: {action}
        except (OSError, RuntimeError): pass
"""


FORGERS = {
    "exit code 0": "import os\ndef f(x): os._exit(0)\n",
    "exit code 0 while loading": "import os\nos._exit(0)\n",
    "exit code 0 at the end": "import atexit, os\natexit.register(lambda: os._exit(0))\nraise SystemExit\n",
    "exit code 0 in a thread": "import os, threading\nthreading.Thread(target=lambda: os._exit(0)).start()\n" + WRONG,
    "keyboard interrupt": "def f(x): raise KeyboardInterrupt\n",
    "what tests may catch": "def f(x): raise AssertionError\n",
    "equals everything": """\
class E:
    __class__ = int
    def __eq__(s, o): return True
    def __ne__(s, o): return False
    def __getattr__(s, n): return lambda *a, **k: 2
def f(x): return E()
""",
    **{
        f"{kind} that equals everything": f"""\
class E({kind}):
    def __eq__(s, o): return True
    def __sub__(s, o): return 0.0
    def __iter__(s): return iter([2])
    __hash__ = lambda s: 2
def f(x): return E()
"""
        for kind in ("int", "str", "float", "list", "dict")
    },
    "list that lies about its items": """\
class E(list):
    def __iter__(s): raise SystemExit
    def __len__(s): return 2
def f(x): return E([1])
""",
    "text that is no text": "class E:\n    def __str__(s): return s\ndef f(x): return E()\n",
    "huge int": "def f(x): return 1 << 50_000_000\n",
    "digits": "def f(x): return '9' * 10_000_000\n",
    "deep nesting": "def f(x):\n    a = []\n    for _ in range(100_000): a = [a]\n    return a\n",
    "cyclic": "def f(x):\n    a = []\n    a.append(a)\n    return a\n",
    "unhashable key": "class L(list):\n    __hash__ = lambda s: 1\ndef f(x): return {L(): 1}\n",
    "hash collisions": "def f(x): return {(2**61 - 1) * n: 0 for n in range(3000)}\n",
    "half a character": "def f(x): return '\\ud800\\0' * 1000\n",
    "endless text of an error": "class E(Exception):\n    def __str__(s): return 'a' * 50_000_000\ndef f(x): raise E\n",
    "error whose text fails": "class E(Exception):\n    def __str__(s): raise s\ndef f(x): raise E\n",
    "entry point that is no function": "f = 2\n",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)\n",
    "patched builtins": """\
import builtins
for n in ('isinstance', 'len', 'all', 'abs', 'print'):
    setattr(builtins, n, lambda *a, **k: True)
builtins.AssertionError = type('Ok', (SystemExit,), {})
"""
    + WRONG,
    "patched modules": """\
import json, math, sys
math.isclose = lambda *a, **k: True
json.dumps = lambda *a, **k: '["value", 2, null]'
json.loads = lambda *a, **k: ['ask', 'name', ['f'], {}]
sys.modules['__main__'] = sys.modules['builtins'] = None
"""
    + WRONG,
    "frames": """\
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for space in (frame.f_globals, frame.f_locals):
            for value in list(space.values()):
                if isinstance(value, dict): value.update(status='passed')
        frame = frame.f_back
    return 'wrong'
""",
    "writes to every descriptor": """\
import os
for d in range(64):
    try: os.write(d, (40).to_bytes(8, 'big') + b'{"status": "passed", "reason": ""}      ')
    except OSError: pass
"""
    + WRONG,
    "closes all descriptors": "import os\nos.closerange(0, 64)\n" + WRONG,
    "verdict on the call's pipe": _saying('["passed", {"status": "passed"}, null]'),
    "frame of a negative size": _writing(r"b'\xff' * 100"),
    "frame that never ends": _writing("(2**26).to_bytes(8, 'big') + b'['", after="while True: pass"),
    "answers without a question": _saying(*['["value", {"builtin": "object"}, null]'] * 3, after="pass\nf(1)") + WRONG,
    "unknown tag": _saying('["value", {"yours": 1000000}, null]'),
    "two tags": _saying('["value", {"int": "2", "tuple": []}, null]'),
    "tag with wrong content": _saying('["value", {"range": ["2", "3", "0"]}, null]'),
    "object of the tests": _saying('["value", {"yours": 0}, null]'),
    "changes arguments that are none": _saying('["value", null, [2, 2, 2]]'),
    "asks the tests for eval": _saying(
        '["ask", "call", {"tuple": [{"builtin": "eval"}, "1"]}, {"dict": []}]',
        '["ask", "attribute", {"tuple": [{"yours": 0}, "__globals__"]}, {"dict": []}]',
        '["ask", "set", {"tuple": [{"yours": 0}, "x", 1]}, {"dict": []}]',
        after="return 'wrong'",
    ),
    "endless builtin of the tests": _saying(
        '["ask","call",[{"builtin":"sum"},{"range":["0x0","0x3fffffffffffffff","0x1"]}],{"dict":[]}]',
        after="return 'wrong'",
    ),
    "pieces that are none": _saying('["value",{"pieces":[0,"int",1,0]},null]', after="pass"),
    "pieces without end": _saying('["value",{"pieces":[0,"list",1000000000000,1]},null]', after="pass"),
    "kinds of errors that are none": _saying(
        '["raised", ["X", ["object", "int", "SystemExit", "StopIteration", 7], "2", {"tuple": [2]}], null]'
    ),
    "error of the tests' own": _saying(
        '["raised", ["X", ["OSError"], "2", {"tuple": [{"yours": 0}, {"mine": 1}]}], null]'
    ),
    "kills everybody": "import os\ndef f(x): os.kill(-1, 9)\n",
    "signals everybody and the server": """\
import os
for process, numbers in ((-1, (1, 2, 3, 10, 15)), (1, range(1, 65))):
    for number in numbers:
        try: os.kill(process, number)
        except OSError: pass
"""
    + WRONG,
    "kills its parent": "import os\ndef f(x):\n    os.kill(os.getppid(), 9)\n    return 7\n",
    "stops its parent": "import os\ndef f(x):\n    os.kill(os.getppid(), 19)\n    return 7\n",
    "signals its neighbours": """\
import os, signal
for p in range(2, 400):
    for send in (os.kill, lambda p, number: signal.pidfd_send_signal(os.pidfd_open(p), number)):
        for number in (2, 9):
            try: p == os.getpid() or send(p, number)
            except OSError: pass
"""
    + WRONG,
    "answers from a child": "import os\ndef f(x):\n    if os.fork(): os._exit(0)\n    return 'wrong'\n",
    "two answer": "import os\ndef f(x):\n    os.fork()\n    return 'wrong'\n",
    "sibling of itself": """\
import ctypes, os
if ctypes.CDLL(None).syscall(56, 0x8000 | 9, 0, 0, 0, 0) == 0: os._exit(0)
"""
    + WRONG,
    "child whose death is a signal": """\
import ctypes, os
for s in (2, 9, 15, 19):
    if ctypes.CDLL(None).syscall(56, s, 0, 0, 0, 0) == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
"""
    + WRONG,
    "executes another program": "import os\ndef f(x): os.execv('/usr/bin/true', ['true'])\n",
    "core": "import os\nos.abort()\n",
    "locks and leases": """\
import fcntl, os
for path in ('/tmp', '/usr/lib', '/usr/bin/env'):
    try: fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_EX)
    except OSError: pass
"""
    + WRONG,
    "own filter of system calls": """\
import ctypes
class P(ctypes.Structure): _fields_ = (('n', ctypes.c_ushort), ('p', ctypes.c_char_p))
refuse = (6).to_bytes(2, 'little') + bytes(2) + (0x50001).to_bytes(4, 'little')
ctypes.CDLL(None).prctl(22, 2, ctypes.byref(P(1, refuse)), 0, 0)
"""
    + WRONG,
    "file in sockets that hold each other": """\
import array, os, socket
a, b = socket.socketpair()
for _ in range(3):
    d = os.open('/tmp', os.O_TMPFILE | os.O_RDWR)
    os.write(d, b'x' * 30 * 2**20)
    held = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [a.fileno(), b.fileno(), d]))]
    a.sendmsg([b'x'], held)
    b.sendmsg([b'x'], held)
"""
    + WRONG,
}

_ITERATE = '["ask", "iterate", {"tuple": [[]]}, {"dict": []}]'

DYING = {
    "exit code 0": FORGERS["exit code 0"],
    "segmentation fault": "import ctypes\ndef f(x): ctypes.string_at(0)\n",
    "closed pipe": "import os\ndef f(x): os.closerange(3, 64)\n",
    "in a question": _saying(_ITERATE),
}

FLOODS = {
    "endless loop": "def f(x):\n    while True: pass\n",
    "endless call into C": "def f(x): return sum(range(10**12))\n",
    "waits for input": "def f(x): return input()\n",
    "stops itself": "import os\ndef f(x): os.kill(os.getpid(), 19)\n",
    "stops everybody": "import os, signal\ndef f(x):\n    os.kill(-1, 19)\n    signal.pause()\n",
    "ignores signals": """\
import signal
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
def f(x):
    while True: pass
""",
    "fork bomb": _endless("os.fork()"),
    "thread bomb": _endless("threading.Thread(target=time.sleep, args=(99,)).start()"),
    "daemon": """\
import os, time
def f(x):
    if os.fork() == 0:
        os.setpgid(0, 0)
        if os.fork() == 0:
            while True: time.sleep(1)
    time.sleep(99)
""",
    "memory": _endless("kept.append(bytearray(2**24))"),
    "memory of one object": "def f(x): return bytearray(2**40)\n",
    "output": _endless("print('x' * 2**20); print('x' * 2**20, file=sys.stderr)"),
    "one large file": _endless("os.write(kept[0], b'x' * 2**20)", "kept.append(os.open('/tmp/x', 0o102))"),
    "sparse file": _endless("os.ftruncate(kept[0], 2**40)", "kept.append(os.open('/tmp/x', 0o102))"),
    "many files": _endless("open(f'/tmp/{n}', 'w').write('x' * 10**6)"),
    "deep folders": _endless("os.mkdir('d'); os.chdir('d')"),
    "descriptors": _endless("os.dup(0)"),
    "terminals": _endless("os.openpty()"),
    "iterator without end": "def f(x):\n    while True: yield 1\n",
    "answer without end": "def f(x): return ['x' * 2**20] * 1000\n",
    "nested calls without end": _endless(f"os.write(4, ({len(_ITERATE)}).to_bytes(8, 'big') + {_ITERATE.encode()!r})"),
    "compiler": "def f(x): return eval('-' * 10**6 + '1')\n",
    "answers that lead to questions": """\
class E:
    def __iter__(s): return E()
    def __next__(s): return E()
def f(x): return E()
""",
}

_TRY = """
import ctypes, fcntl, gc, mmap, os, resource, socket, struct, subprocess, time
from multiprocessing import shared_memory
C = ctypes.CDLL(None, use_errno=True)
def attempt(action):
    try:
        value = action()
    except Exception as error:
        return 'refused'
    return f'reached: {value!r}'
def done(value):
    if value < 0: raise OSError(ctypes.get_errno())
    return value
def call(*numbers): return done(C.syscall(*map(ctypes.c_long, numbers)))
def in_child(is_allowed):
    process = os.fork()
    if not process: os._exit(0 if is_allowed() else 1)
    return {0: 'reached'}[os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])]
"""
"""`done` and `in_child` raise if a call was refused."""

ATTEMPTS = {
    "network": "socket.create_connection(('127.0.0.1', 22), 1)",
    "network, IPv6": "socket.socket(socket.AF_INET6)",
    "datagrams": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "raw packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "machine sockets": "socket.socket(socket.AF_VSOCK)",
    "kernel cryptography": "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)",
    "service socket": "socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')",
    "abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0kdtool-test')",
    "names": "socket.getaddrinfo('localhost', 80)",
    "passwords": "open('/etc/passwd').read()",
    "home": "[n for n in os.listdir('/root') + os.listdir('/home') if n != '.pyenv'][0]",
    "secret file": "open(SECRET).read()",
    "host name": "{}['sandbox' in os.uname().nodename]",
    "environment": "[n for n in os.environ if n not in KNOWN or n[:2] == 'LD' and os.environ[n] != '/python/shared'][0]",
    "environment of C": "ctypes.cast(C.getenv(b'KDTOOL_SECRET'), ctypes.c_char_p).value.decode()",
    "processes": "os.listdir('/proc')",
    "tester's memory": "open(f'/proc/{os.getpid() + 1}/mem', 'rb').read(1)",
    "server's descriptors": "os.listdir('/proc/1/fd')",
    "devices": "open('/dev/vda', 'rb')",
    "new device": "os.mknod('/tmp/d', 0o60600, os.makedev(254, 0))",
    "kernel settings": "os.listdir('/sys')",
    "root directory": "open('/x', 'w')",
    "library": "open(socket.__file__, 'a')",
    "device folder": "open('/dev/x', 'w')",
    "shared memory files": "open('/dev/shm/x', 'w')",
    "shared memory": "shared_memory.SharedMemory('x', True, 99)",
    "shared memory without a file": "mmap.mmap(-1, 99)",
    "shared zeros": "mmap.mmap(os.open('/dev/zero', os.O_RDWR), 99)",
    "memory given to a pipe": "call(278, os.pipe()[1], ctypes.addressof(part), 1, 0)",
    "System V shared memory": "done(C.shmget(7, 99, 0o1666))",
    "System V queue": "done(C.msgget(7, 0o1666))",
    "System V semaphore": "done(C.semget(7, 1, 0o1666))",
    "POSIX queue": "done(C.mq_open(b'/x', 0o102, 0o666, 0))",
    "memory file": "os.memfd_create('x')",
    "tracing the server": "done(C.ptrace(16, 1, 0, 0))",
    "tracing the tester": "done(C.ptrace(16, os.getpid() + 1, 0, 0))",
    "reading others' memory": "call(310, os.getpid() + 1, 0, 0, 0, 0, 0)",
    "others' descriptors": "call(438, os.pidfd_open(os.getpid() + 1), 0, 0)",
    "kernel keyring": "call(250, 0, -3, 1)",
    "user namespace": "done(C.unshare(0x10000000))",
    "namespace by clone": "call(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "clone3": "call(435, 0, 0)",
    "other namespace": "done(C.setns(0, 0))",
    "mount": "done(C.mount(b'none', b'/tmp', b'tmpfs', 0, None))",
    "chroot": "os.chroot('/tmp')",
    "BPF": "call(321, 0, 0, 0)",
    "io_uring": "call(425, 1, ctypes.addressof(ctypes.create_string_buffer(200)))",
    "performance events": "call(298, 0, 0, -1, -1, 0)",
    "user faults": "call(323, 0)",
    "32-bit calls": "call(0x40000000 | 39)",
    "server's priority": "os.setpriority(os.PRIO_PROCESS, 1, 19)",
    "everybody's priority": "os.setpriority(os.PRIO_USER, 0, 19)",
    "server's limits": "resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))",
    "tester's limits": "resource.prlimit(os.getpid() + 1, resource.RLIMIT_CPU, (0, 0))",
    "server's processor": "os.sched_setaffinity(1, {0})",
    "server's scheduling": "os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))",
    "own processors": "os.sched_setaffinity(0, range(os.cpu_count()))",
    "own scheduling": "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
    "own priority": "os.setpriority(os.PRIO_PROCESS, 0, 5)",
    "own priority of files": "call(251, 1, 0, 2 << 13)",
    "own session": "in_child(lambda: attempt(os.setsid) != 'refused')",
    "attributes of the folder": "os.setxattr('/tmp', 'user.x', b'x' * 2**15)",
    "attributes of a file": "os.setxattr(os.open('/tmp', os.O_TMPFILE | os.O_RDWR), 'user.x', b'x' * 2**15)",
    "watching files": "done(C.inotify_init())",
    "watching files, newer": "done(C.inotify_init1(0))",
    "watching file systems": "done(C.fanotify_init(0x200, 0))",
    "watching a folder by its descriptor": "fcntl.fcntl(os.open('/python', os.O_RDONLY), fcntl.F_NOTIFY, 0x80000001)",
    "locks that the kernel remembers": "in_child(lambda: lock(fcntl.F_GETLK) != fcntl.F_UNLCK)",
    "more timers than programs need": "{100: 'all'}[timers]",
    "Landlock": "call(444, 0, 0, 1)",
    "cores for tracing": "done(C.prctl(4, 1, 0, 0, 0))",
    "cores": "['can be left'][resource.getrlimit(resource.RLIMIT_CORE) == (1, 1)]",
    "own limits": "resource.setrlimit(resource.RLIMIT_NPROC, (10**5, 10**5))",
    "root": "os.setuid(0)",
    "other user": "os.setresuid(1, 1, 1)",
    "groups": "[g for g in os.getgroups() if g != 65534][0]",
    "capabilities": "os.chown('/tmp', 0, 0)",
    "set-user-id program": "{}[subprocess.run(['/usr/bin/su', '-c', 'true']).returncode != 0]",
    "host name changed": "socket.sethostname('x')",
    "clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "kernel log": "done(C.klogctl(3, ctypes.create_string_buffer(99), 99))",
    "terminal input": "fcntl.ioctl(0, 0x5412, b'x')",
    "terminal": "os.open('/dev/tty', os.O_RDWR)",
    "parent folder": "os.listdir('/tmp/../home')",
    "link out": "open('/tmp/link').read()",
    "link left for the wipe": "{}['nothing is tried']",
    "folder closed": "{}[os.chmod('/tmp', 0)]",
    "file handles": "call(304, -100, 0, 0)",
    "memory of the machine": "open('/dev/mem', 'rb')",
    "module": "call(313, 0, 0, 0)",
    "swap": "done(C.swapoff(b'/x'))",
    "tests in inherited memory": "[o for o in gc.get_objects() if has_mark(o)][0]",
    "descriptors left open": "[os.fstat(d) for d in range(5, 2000) if attempt(lambda: os.fstat(d)) != 'refused'][0]",
    "standard input": "os.read(0, 1)[0]",
    "earlier files": "os.listdir('/tmp')[0]",
}
"""An expression each; `{}[...]` is an error, so it stands for a refusal."""

_PREPARED = {
    "environment": """\
KNOWN = {'PATH', 'HOME', 'TMPDIR', 'LANG', 'PWD', 'LC_CTYPE', 'LD_LIBRARY_PATH'}
""",
    "memory given to a pipe": """\
held = ctypes.create_string_buffer(99)
part = (ctypes.c_long * 2)(ctypes.addressof(held), 9)
""",
    "locks that the kernel remembers": """\
file = os.open('/tmp/locked', os.O_CREAT | os.O_RDWR)
def lock(command):
    wanted = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 1, 0)
    return struct.unpack('hhqqi4x', fcntl.fcntl(file, command, wanted))[0]
for setting in (fcntl.F_SETLK, fcntl.F_SETLKW, 37, 38): lock(setting)
""",
    "more timers than programs need": """\
timers = sum(C.timer_create(1, None, ctypes.byref(ctypes.c_void_p())) == 0 for _ in range(100))
""",
    "link out": "os.symlink('/etc/shadow', '/tmp/link')\n",
    "link left for the wipe": "os.symlink('/usr', '/tmp/usr')\nos.mkdir('/tmp/d')\nos.chmod('/tmp/d', 0)\n",
    "tests in inherited memory": """\
def has_mark(o):
    return type(o) in (dict, list, tuple) and MARK in str(o) and o is not globals() and 'gc' not in o
""",
}

OF_X86_64 = frozenset(name for name, attempt in ATTEMPTS.items() if "call(" in attempt)
"""They use the numbers that system calls have there."""


def reaching(name: str, secret: str) -> str:
    """Return the program of that name, which returns what came of its attempt."""
    constants = f"SECRET = {secret!r}\nMARK = 'the-' + 'mark'\n"
    return f"{_TRY}{constants}{_PREPARED.get(name, '')}def f(x): return attempt(lambda: {ATTEMPTS[name]})\n"
