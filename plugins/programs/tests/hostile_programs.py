"""Programs that want a verdict they do not deserve, or more of the machine than they should have.

`FORGERS` and `FLOODS` must not pass tests that expect `f(1) == 2`, `DYING` none that expect an exception. Each of
`ATTEMPTS` tries something and returns what came of it: its tests pass only if it was refused.
"""

from __future__ import annotations

HONEST = "def f(x):\n    return x + 1\n"
WRONG = "def f(x):\n    return 'wrong'\n"

FORGERS = {
    "exit code 0": """\
import os
def f(x): os._exit(0)
""",
    "exit code 0 while loading": """\
import os
os._exit(0)
""",
    "sys.exit": """\
import sys
sys.exit(0)
""",
    "keyboard interrupt": "def f(x): raise KeyboardInterrupt\n",
    "quit": "def f(x): quit()\n",
    "equals everything": """\
class E:
    def __eq__(s, o): return True
    def __ne__(s, o): return False
def f(x): return E()
""",
    "int that equals": """\
class E(int):
    def __eq__(s, o): return True
    __hash__ = int.__hash__
def f(x): return E(7)
""",
    "str that equals": """\
class E(str):
    def __eq__(s, o): return True
    __hash__ = str.__hash__
def f(x): return E()
""",
    "list that equals": """\
class E(list):
    def __eq__(s, o): return True
def f(x): return E()
""",
    "float that is close": """\
class E(float):
    def __sub__(s, o): return 0.0
    __rsub__ = __sub__
    def __eq__(s, o): return 1
def f(x): return E()
""",
    "class that lies about itself": """\
class E:
    __class__ = int
    def __eq__(s, o): return True
def f(x): return E()
""",
    "reduce": """\
class E:
    def __reduce__(s): return (eval, ('2',))
    def __reduce_ex__(s, p): return (int, (2,))
def f(x): return E()
""",
    "proxy of everything": """\
class E:
    def __getattr__(s, n): return lambda *a, **k: 2
def f(x): return E()
""",
    "metaclass that equals": """\
class M(type):
    def __eq__(s, o): return True
    __hash__ = type.__hash__
class E(metaclass=M): pass
def f(x): return E
""",
    "nan": "def f(x): return float('nan')\n",
    "huge int": "def f(x): return 1 << 50_000_000\n",
    "digits": "def f(x): return '9' * 10_000_000\n",
    "deep nesting": """\
def f(x):
    a = []
    for _ in range(100_000): a = [a]
    return a
""",
    "cyclic": """\
def f(x):
    a = []
    a.append(a)
    return a
""",
    "unhashable key": """\
class L(list):
    __hash__ = lambda s: 1
def f(x): return {L(): 1}
""",
    "hash that raises": """\
class L:
    def __hash__(s): raise ValueError
def f(x): return L()
""",
    "patched builtins": """\
import builtins
for n in ('isinstance', 'len', 'all', 'abs', 'print'):
    setattr(builtins, n, lambda *a, **k: True)
def f(x):
    return 'wrong'
""",
    "patched AssertionError": """\
import builtins
builtins.AssertionError = type('Ok', (SystemExit,), {})
def f(x):
    return 'wrong'
""",
    "patched modules": """\
import math, json
math.isclose = lambda *a, **k: True
json.dumps = lambda *a, **k: '["value", 2, null]'
def f(x):
    return 'wrong'
""",
    "patched json loads": """\
import json
json.loads = lambda *a, **k: ['ask', 'name', ['f'], {}]
def f(x):
    return 'wrong'
""",
    "settrace": """\
import sys
def t(*a):
    a[0].f_locals.clear()
    return t
sys.settrace(t)
def f(x):
    return 'wrong'
""",
    "setprofile": """\
import sys
sys.setprofile(lambda *a: None)
def f(x):
    return 'wrong'
""",
    "audit hook": """\
import sys
def h(*a): raise SystemExit(0)
sys.addaudithook(h)
def f(x):
    return 'wrong'
""",
    "excepthook": """\
import sys, os
sys.excepthook = lambda *a: os._exit(0)
raise RuntimeError
""",
    "atexit": """\
import atexit, os
atexit.register(lambda: os._exit(0))
raise SystemExit
""",
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
    "gc": """\
import gc
def f(x):
    for o in gc.get_objects():
        if type(o) is dict and 'status' in o: o['status'] = 'passed'
    return 'wrong'
""",
    "writes to every descriptor": """\
import os
for d in range(64):
    try: os.write(d, (40).to_bytes(8, 'big') + b'{"status": "passed", "reason": ""}      ')
    except OSError: pass
def f(x):
    return 'wrong'
""",
    "verdict on the call's pipe": """\
import os, json
def f(x):
    m = json.dumps(['passed', {'status': 'passed'}, None]).encode()
    os.write(4, len(m).to_bytes(8, 'big') + m)
    os._exit(0)
""",
    "strange frames": """\
import os
def f(x):
    os.write(4, b'\\xff' * 100)
    os._exit(0)
""",
    "frame that never ends": """\
import os
def f(x):
    os.write(4, (2**26).to_bytes(8, 'big') + b'[')
    while True: pass
""",
    "answers without a question": """\
import os, json
for _ in range(3):
    m = json.dumps(['value', {'builtin': 'object'}, None]).encode()
    os.write(4, len(m).to_bytes(8, 'big') + m)
def f(x):
    return 'wrong'
""",
    "unknown tag": """\
import os, json
def f(x):
    m = json.dumps(['value', {'yours': 10**6}, None]).encode()
    os.write(4, len(m).to_bytes(8, 'big') + m)
    os._exit(0)
""",
    "asks the tests for eval": """\
import os, json
def f(x):
    for q in (['call', {'builtin': 'eval'}, '1'], ['attribute', {'yours': 0}, '__globals__'], ['set', {'yours': 0}, 'x', 1]):
        m = json.dumps(['ask', q[0], {'tuple': q[1:]}, {'dict': []}]).encode()
        os.write(4, len(m).to_bytes(8, 'big') + m)
    return 'wrong'
""",
    "changes arguments that are none": """\
import os, json
def f(x):
    m = json.dumps(['value', None, [2, 2, 2]]).encode()
    os.write(4, len(m).to_bytes(8, 'big') + m)
    os._exit(0)
""",
    "raises what tests may catch": "def f(x): raise AssertionError\n",
    "kills everybody": """\
import os, signal
def f(x): os.kill(-1, signal.SIGKILL)
""",
    "kills everybody softly": """\
import os, signal
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
    try: os.kill(-1, s)
    except OSError: pass
def f(x):
    return 'wrong'
""",
    "signals the server": """\
import os, signal
for s in range(1, 65):
    try: os.kill(1, s)
    except OSError: pass
def f(x):
    return 'wrong'
""",
    "kills its parent": """\
import os, signal
def f(x):
    os.kill(os.getppid(), signal.SIGKILL)
    return 7
""",
    "stops its parent": """\
import os, signal
def f(x):
    os.kill(os.getppid(), signal.SIGSTOP)
    return 7
""",
    "alarms the tests": """\
import os, signal
def f(x):
    for number in range(1, 65):
        try:
            os.kill(1, number)
        except OSError:
            pass
    return 7
""",
    "endless builtin of the tests": """\
import os
def f(x):
    message = b'["ask","call",[{"builtin":"sum"},{"range":["0x0","0x3fffffffffffffff","0x1"]}],{"dict":[]}]'
    os.write(4, len(message).to_bytes(8, "big") + message)
""",
    "pieces that are none": """\
import os
def f(x):
    message = b'["value",{"pieces":[0,"int",1,0]},null]'
    os.write(4, len(message).to_bytes(8, "big") + message)
""",
    "pieces without end": """\
import os
def f(x):
    message = b'["value",{"pieces":[0,"list",1000000000000,1]},null]'
    os.write(4, len(message).to_bytes(8, "big") + message)
""",
    "kills its neighbours": """\
import os
for p in range(2, 400):
    if p != os.getpid():
        try: os.kill(p, 9)
        except OSError: pass
def f(x):
    return 'wrong'
""",
    "interrupts the tests": """\
import os, signal
for p in range(2, 400):
    if p != os.getpid():
        try: os.kill(p, signal.SIGINT)
        except OSError: pass
def f(x):
    return 'wrong'
""",
    "answers from a child": """\
import os
def f(x):
    if os.fork(): os._exit(0)
    return 'wrong'
""",
    "two answer": """\
import os
def f(x):
    os.fork()
    return 'wrong'
""",
    "executes another program": """\
import os
def f(x): os.execv('/usr/bin/true', ['true'])
""",
    "recursion": """\
import sys
sys.setrecursionlimit(10**9)
def f(x): return f(x)
""",
    "unpickles": """\
import pickle
def f(x): return pickle.dumps(2)
""",
    "endless text of an error": """\
class E(Exception):
    def __str__(s): return 'a' * 50_000_000
def f(x): raise E
""",
    "error whose text fails": """\
class E(Exception):
    def __str__(s): raise s
def f(x): raise E
""",
    "subclass of a builtin error": """\
class ZeroDivisionError(Exception): pass
def f(x): raise ZeroDivisionError
""",
    "kinds of errors that are none": """\
import os, json
def f(x):
    kinds = ['object', 'int', 'SystemExit', 'StopIteration', 7]
    m = json.dumps(['raised', ['X', kinds, '2', {'tuple': [2]}], None]).encode()
    os.write(4, len(m).to_bytes(8, 'big') + m)
    os._exit(0)
""",
    "error of what is the tests' own": """\
import os, json
def f(x):
    m = json.dumps(['raised', ['X', ['OSError'], '2', {'tuple': [{'yours': 0}, {'mine': 1}]}], None]).encode()
    os.write(4, len(m).to_bytes(8, 'big') + m)
    os._exit(0)
""",
    "gone entry point": """\
def f(x): return 2
del f
""",
    "entry point that is no function": "f = 2\n",
    "module replaced": """\
import sys
sys.modules['__main__'] = sys.modules['builtins'] = None
def f(x):
    return 'wrong'
""",
    "destructor": """\
class D:
    def __del__(s):
        import os
        os._exit(0)
d = D()
del d
def f(x):
    return 'wrong'
""",
    "closes all descriptors": """\
import os
os.closerange(0, 64)
def f(x):
    return 'wrong'
""",
    "thread that exits": """\
import threading, os
threading.Thread(target=lambda: os._exit(0)).start()
def f(x):
    return 'wrong'
""",
    "core": """\
import os
os.abort()
""",
    "unicode tricks": "def f(x): return '\\ud800\\0' * 1000\n",
    "text that is no text": """\
class E:
    def __str__(s): return s
def f(x): return E()
""",
    "arithmetic of everything": """\
class E:
    def __getattr__(s, n): return s
    def __call__(s, *a): return s
    def __iter__(s): return iter([2])
    def __len__(s): return 1
    def __index__(s): return 2
    __int__ = __index__
    def __add__(s, o): return 2
    __sub__ = __radd__ = __rsub__ = __mod__ = __add__
    def __contains__(s, o): return True
    def __lt__(s, o): return True
    __gt__ = __le__ = __ge__ = __eq__ = __lt__
def f(x): return E()
""",
    "dict that equals": """\
class E(dict):
    def __eq__(s, o): return True
    def items(s): return [(2, 2)]
    def __iter__(s): return iter([2])
def f(x): return E()
""",
    "list that lies about what it holds": """\
class E(list):
    def __iter__(s): raise SystemExit
    def __len__(s): return 2
def f(x): return E([1])
""",
    "answers with an object of the tests": """\
import os, json
def f(x):
    m = json.dumps(['value', {'yours': 0}, None]).encode()
    os.write(4, len(m).to_bytes(8, 'big') + m)
    os._exit(0)
""",
    "sibling of itself": """\
import ctypes, os
C = ctypes.CDLL(None)
if C.syscall(56, 0x8000 | 9, 0, 0, 0, 0) == 0: os._exit(0)
"""
    + WRONG,
    "child whose death is a signal": """\
import ctypes, os
C = ctypes.CDLL(None)
for s in (2, 9, 15, 19):
    if C.syscall(56, s, 0, 0, 0, 0) == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
"""
    + WRONG,
    "signals by descriptor and timer": """\
import os, signal
for p in range(1, 300):
    try: signal.pidfd_send_signal(os.pidfd_open(p), signal.SIGINT) if p != os.getpid() else None
    except OSError: pass
"""
    + WRONG,
    "frame of a negative size": """\
import os
def f(x):
    os.write(4, (2**64 - 1).to_bytes(8, 'big') + b'x' * 100)
    os._exit(0)
""",
    "two tags": """\
import os, json
def f(x):
    m = json.dumps(['value', {'int': '2', 'tuple': []}, None]).encode()
    os.write(4, len(m).to_bytes(8, 'big') + m)
    os._exit(0)
""",
    "tag with wrong content": """\
import os, json
def f(x):
    m = json.dumps(['value', {'range': ['2', '3', '0']}, None]).encode()
    os.write(4, len(m).to_bytes(8, 'big') + m)
    os._exit(0)
""",
    "true of another type": "def f(x): return {'True': True}\n",
    "locks and leases": """\
import fcntl, os
d = os.open('/tmp', os.O_RDONLY)
fcntl.flock(d, fcntl.LOCK_EX)
for path in ('/usr/lib', '/usr/bin/env'):
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
    "hash collisions": "def f(x): return {(2**61 - 1) * n: 0 for n in range(3000)}\n",
}

DYING = {
    "exit code 0": """\
import os
def f(x): os._exit(0)
""",
    "segmentation fault": """\
import ctypes
def f(x): ctypes.string_at(0)
""",
    "closed pipe": """\
import os
def f(x): os.closerange(3, 64)
""",
    "in a question": """\
import os, json
def f(x):
    m = json.dumps(['ask', 'iterate', {'tuple': [[]]}, {'dict': []}]).encode()
    os.write(4, len(m).to_bytes(8, 'big') + m)
    os._exit(0)
""",
}

FLOODS = {
    "endless loop": """\
def f(x):
    while True: pass
""",
    "endless loop while loading": "while True: pass\n",
    "endless call into C": "def f(x): return sum(range(10**12))\n",
    "sleep": """\
import time
def f(x): time.sleep(1000)
""",
    "waits for input": "def f(x): return input()\n",
    "stops itself": """\
import os, signal
def f(x): os.kill(os.getpid(), signal.SIGSTOP)
""",
    "stops everybody": """\
import os, signal
def f(x):
    os.kill(-1, signal.SIGSTOP)
    signal.pause()
""",
    "ignores signals": """\
import signal
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
def f(x):
    while True: pass
""",
    "fork bomb": """\
import os
def f(x):
    while True:
        try: os.fork()
        except OSError: pass
""",
    "thread bomb": """\
import threading, time
def f(x):
    while True:
        try: threading.Thread(target=time.sleep, args=(99,)).start()
        except RuntimeError: pass
""",
    "daemon": """\
import os, time
def f(x):
    if os.fork() == 0:
        os.setpgid(0, 0)
        if os.fork() == 0:
            while True: time.sleep(1)
    time.sleep(99)
""",
    "memory": """\
def f(x):
    a = []
    while True: a.append(bytearray(2**24))
""",
    "memory of one object": "def f(x): return bytearray(2**40)\n",
    "memory map": """\
import mmap
def f(x):
    a = []
    while True:
        a.append(mmap.mmap(-1, 2**26, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        a[-1].write(b'x' * 2**26)
""",
    "output": """\
import sys
def f(x):
    while True: print('x' * 2**20); print('x' * 2**20, file=sys.stderr)
""",
    "one large file": """\
def f(x):
    with open('/tmp/x', 'wb') as o:
        while True: o.write(b'x' * 2**20)
""",
    "many files": """\
def f(x):
    n = 0
    while True:
        n += 1
        open(f'/tmp/{n}', 'w').write('x' * 10**6)
""",
    "many empty files": """\
import os
def f(x):
    n = 0
    while True:
        n += 1
        os.mkdir(f'/tmp/{n}')
""",
    "deep folders": """\
import os
def f(x):
    while True:
        os.mkdir('d')
        os.chdir('d')
""",
    "descriptors": """\
import os
def f(x):
    while True: os.dup(0)
""",
    "pipes filled": """\
import os
def f(x):
    while True:
        r, w = os.pipe()
        os.set_blocking(w, False)
        os.write(w, b'x' * 2**20)
""",
    "iterator without end": """\
def f(x):
    while True: yield 1
""",
    "answer without end": "def f(x): return ['x' * 2**20] * 1000\n",
    "nested calls without end": """\
import os, json
def f(x):
    m = json.dumps(['ask', 'iterate', {'tuple': [[]]}, {'dict': []}]).encode()
    while True: os.write(4, len(m).to_bytes(8, 'big') + m)
""",
    "regular expression": """\
import re
def f(x): return re.match('(a+)+$', 'a' * 60 + 'b')
""",
    "compiler": "def f(x): return eval('-' * 10**6 + '1')\n",
    "answers that lead to questions": """\
class E:
    def __iter__(s): return E()
    def __next__(s): return E()
def f(x): return E()
""",
    "folder watched": """\
import ctypes
def f(x):
    C = ctypes.CDLL(None)
    d = C.inotify_init()
    while True: C.inotify_add_watch(d, b'/tmp', 0xfff)
""",
    "terminals": """\
import os
def f(x):
    while True:
        try: os.openpty()
        except OSError: pass
""",
    "links in a circle": """\
import os
def f(x):
    n = 0
    while True:
        n += 1
        os.symlink(f'/tmp/{n}', f'/tmp/{n - 1}')
""",
    "sparse file": """\
import os
def f(x):
    d = os.open('/tmp/x', os.O_RDWR | os.O_CREAT)
    os.ftruncate(d, 2**40)
""",
    "sockets filled": """\
import os, socket
def f(x):
    a = []
    while True:
        a += socket.socketpair()
        a[-1].setblocking(False)
        try:
            while True: a[-1].send(b'x' * 2**16)
        except BlockingIOError: pass
""",
    "timers": """\
import signal
def f(x):
    signal.signal(signal.SIGALRM, lambda *a: None)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    while True: pass
""",
}

_TRY = """
import ctypes, os
C = ctypes.CDLL(None, use_errno=True)
def attempt(action):
    try:
        value = action()
    except Exception as error:
        return 'refused'
    return f'reached: {value!r}'
def call(*numbers):
    value = C.syscall(*map(ctypes.c_long, numbers))
    if value < 0: raise OSError(ctypes.get_errno())
    return value
"""

ATTEMPTS = {
    "network": """\
import socket
A = lambda: socket.create_connection(('127.0.0.1', 22), 1)
""",
    "network, IPv6": """\
import socket
A = lambda: socket.socket(socket.AF_INET6)
""",
    "datagrams": """\
import socket
A = lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
""",
    "raw packets": """\
import socket
A = lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
""",
    "netlink": """\
import socket
A = lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
""",
    "machine sockets": """\
import socket
A = lambda: socket.socket(socket.AF_VSOCK)
""",
    "kernel cryptography": """\
import socket
A = lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)
""",
    "service socket": """\
import socket
A = lambda: socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')
""",
    "abstract socket": """\
import socket
A = lambda: socket.socket(socket.AF_UNIX).connect('\\0kdtool-test')
""",
    "names": """\
import socket
A = lambda: socket.getaddrinfo('localhost', 80)
""",
    "passwords": "A = lambda: open('/etc/passwd').read()\n",
    "home": """\
A = lambda: [n for n in os.listdir('/root') + os.listdir('/home') if n != '.pyenv'][0]
""",
    "secret file": "A = lambda: open(SECRET).read()\n",
    "host name": "A = lambda: {}['sandbox' in os.uname().nodename]\n",
    "environment": """\
KNOWN = {'PATH', 'HOME', 'TMPDIR', 'LANG', 'PWD', 'LC_CTYPE', 'LD_LIBRARY_PATH'}
A = lambda: [n for n in os.environ if n not in KNOWN or n.startswith('LD') and os.environ[n] != '/python/shared'][0]
""",
    "environment of C": """\
A = lambda: ctypes.cast(C.getenv(b'KDTOOL_SECRET'), ctypes.c_char_p).value.decode()
""",
    "processes": "A = lambda: os.listdir('/proc')\n",
    "tester's memory": "A = lambda: open(f'/proc/{os.getpid() + 1}/mem', 'rb').read(1)\n",
    "server's descriptors": "A = lambda: os.listdir('/proc/1/fd')\n",
    "devices": "A = lambda: open('/dev/vda', 'rb')\n",
    "new device": "A = lambda: os.mknod('/tmp/d', 0o60600, os.makedev(254, 0))\n",
    "kernel settings": "A = lambda: os.listdir('/sys')\n",
    "root directory": "A = lambda: open('/x', 'w')\n",
    "library": """\
import json
A = lambda: open(json.__file__, 'a')
""",
    "device folder": "A = lambda: open('/dev/x', 'w')\n",
    "shared memory files": "A = lambda: open('/dev/shm/x', 'w')\n",
    "shared memory": """\
from multiprocessing import shared_memory
A = lambda: shared_memory.SharedMemory('x', True, 99)
""",
    "shared memory without a file": """\
import mmap
A = lambda: mmap.mmap(-1, 99)
""",
    "shared zeros": """\
import mmap
A = lambda: mmap.mmap(os.open('/dev/zero', os.O_RDWR), 99)
""",
    "memory given to a pipe": """\
class Part(ctypes.Structure): _fields_ = (('base', ctypes.c_void_p), ('size', ctypes.c_size_t))
held = ctypes.create_string_buffer(99)
part = Part(ctypes.addressof(held), 9)
A = lambda: call({vmsplice}, os.pipe()[1], ctypes.addressof(part), 1, 0)
""",
    "System V shared memory": """\
A = lambda: C.shmget(7, 99, 0o1666) if C.shmget(7, 99, 0o1666) >= 0 else {}[0]
""",
    "System V queue": """\
A = lambda: C.msgget(7, 0o1666) if C.msgget(7, 0o1666) >= 0 else {}[0]
""",
    "System V semaphore": """\
A = lambda: C.semget(7, 1, 0o1666) if C.semget(7, 1, 0o1666) >= 0 else {}[0]
""",
    "POSIX queue": """\
A = lambda: C.mq_open(b'/x', 0o102, 0o666, 0) if C.mq_open(b'/x', 0o102, 0o666, 0) >= 0 else {}[0]
""",
    "memory file": "A = lambda: os.memfd_create('x')\n",
    "tracing the server": """\
A = lambda: C.ptrace(16, 1, 0, 0) if C.ptrace(16, 1, 0, 0) >= 0 else {}[0]
""",
    "tracing the tester": """\
A = lambda: C.ptrace(16, os.getpid() + 1, 0, 0) if C.ptrace(16, os.getpid() + 1, 0, 0) >= 0 else {}[0]
""",
    "reading others' memory": """\
A = lambda: call({process_vm_readv}, os.getpid() + 1, 0, 0, 0, 0, 0)
""",
    "others' descriptors": "A = lambda: call(438, os.pidfd_open(os.getpid() + 1), 0, 0)\n",
    "kernel keyring": "A = lambda: call({keyctl}, 0, -3, 1)\n",
    "user namespace": "A = lambda: C.unshare(0x10000000) == 0 or {}[0]\n",
    "namespace by clone": "A = lambda: call({clone}, 0x10000000 | 17, 0, 0, 0, 0)\n",
    "clone3": "A = lambda: call(435, 0, 0)\n",
    "other namespace": "A = lambda: C.setns(0, 0) == 0 or {}[0]\n",
    "mount": """\
A = lambda: C.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0 or {}[0]
""",
    "chroot": "A = lambda: os.chroot('/tmp')\n",
    "BPF": "A = lambda: call({bpf}, 0, 0, 0)\n",
    "io_uring": """\
A = lambda: call(425, 1, ctypes.addressof(ctypes.create_string_buffer(200)))
""",
    "performance events": "A = lambda: call({perf_event_open}, 0, 0, -1, -1, 0)\n",
    "user faults": "A = lambda: call({userfaultfd}, 0)\n",
    "32-bit calls": """\
A = lambda: call(0x40000000 | 39) if C.syscall(39) == os.getpid() else {}[0]
""",
    "server's priority": "A = lambda: os.setpriority(os.PRIO_PROCESS, 1, 19)\n",
    "everybody's priority": "A = lambda: os.setpriority(os.PRIO_USER, 0, 19)\n",
    "server's limits": """\
import resource
A = lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))
""",
    "tester's limits": """\
import resource
A = lambda: resource.prlimit(os.getpid() + 1, resource.RLIMIT_CPU, (0, 0))
""",
    "server's processor": "A = lambda: os.sched_setaffinity(1, {0})\n",
    "server's scheduling": """\
A = lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))
""",
    "own processors": "A = lambda: os.sched_setaffinity(0, range(os.cpu_count()))\n",
    "own scheduling": "A = lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n",
    "own priority": "A = lambda: os.setpriority(os.PRIO_PROCESS, 0, 5)\n",
    "own priority of files": "A = lambda: call({ioprio_set}, 1, 0, 2 << 13)\n",
    "own session": """\
def child():
    process = os.fork()
    if not process:
        os._exit(attempt(os.setsid) == 'refused')
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
A = lambda: {0: 'a session'}[child()]
""",
    "attributes of the folder": "A = lambda: os.setxattr('/tmp', 'user.x', b'x' * 2**15)\n",
    "attributes of a file": """\
A = lambda: os.setxattr(os.open('/tmp', os.O_TMPFILE | os.O_RDWR), 'user.x', b'x' * 2**15)
""",
    "watching files": "A = lambda: C.inotify_init() >= 0 or {}[0]\n",
    "watching files, newer": "A = lambda: C.inotify_init1(0) >= 0 or {}[0]\n",
    "watching file systems": "A = lambda: C.fanotify_init(0x200, 0) >= 0 or {}[0]\n",
    "watching a folder by its descriptor": """\
import fcntl
A = lambda: fcntl.fcntl(os.open('/python', os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_ACCESS | fcntl.DN_MULTISHOT)
""",
    "locks that the kernel remembers": """\
import fcntl, struct
file = os.open('/tmp/locked', os.O_CREAT | os.O_RDWR)
form = 'hhqqi4x'
def lock(command, kind): return struct.unpack(form, fcntl.fcntl(file, command, struct.pack(form, kind, 0, 0, 1, 0)))
def child():
    process = os.fork()
    if not process:
        os._exit(lock(fcntl.F_GETLK, fcntl.F_WRLCK)[0] == fcntl.F_UNLCK)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
for setting in (fcntl.F_SETLK, fcntl.F_SETLKW, 37, 38): lock(setting, fcntl.F_WRLCK)
A = lambda: {0: 'a lock'}[child()]
""",
    "more timers than programs need": """\
timers = [C.timer_create(1, None, ctypes.byref(ctypes.c_void_p())) for _ in range(100)]
A = lambda: {99: 'all'}[sum(made == 0 for made in timers) - 1]
""",
    "Landlock": "A = lambda: call(444, 0, 0, 1)\n",
    "cores for tracing": "A = lambda: C.prctl(4, 1, 0, 0, 0) == 0 or {}[0]\n",
    "cores": """\
import resource
A = lambda: ['can be left'][resource.getrlimit(resource.RLIMIT_CORE) == (1, 1)]
""",
    "own limits": """\
import resource
A = lambda: resource.setrlimit(resource.RLIMIT_NPROC, (10**5, 10**5))
""",
    "root": "A = lambda: os.setuid(0)\n",
    "other user": "A = lambda: os.setresuid(1, 1, 1)\n",
    "groups": "A = lambda: [g for g in os.getgroups() if g != 65534][0]\n",
    "capabilities": "A = lambda: os.chown('/tmp', 0, 0)\n",
    "set-user-id program": """\
import subprocess
A = lambda: {}[subprocess.run(['/usr/bin/su', '-c', 'true']).returncode != 0]
""",
    "host name changed": """\
import socket
A = lambda: socket.sethostname('x')
""",
    "clock": """\
import time
A = lambda: time.clock_settime(time.CLOCK_REALTIME, 0)
""",
    "kernel log": """\
A = lambda: C.klogctl(3, ctypes.create_string_buffer(99), 99) >= 0 or {}[0]
""",
    "terminal input": """\
import fcntl
A = lambda: fcntl.ioctl(0, 0x5412, b'x')
""",
    "terminal": "A = lambda: os.open('/dev/tty', os.O_RDWR)\n",
    "parent folder": "A = lambda: os.listdir('/tmp/../home')\n",
    "link out": """\
os.symlink('/etc/shadow', '/tmp/l')
A = lambda: open('/tmp/l').read()
""",
    "link left for the wipe": """\
os.symlink('/usr', '/tmp/usr')
os.mkdir('/tmp/d')
os.chmod('/tmp/d', 0)
A = lambda: {}[0]
""",
    "folder closed": "A = lambda: {}[os.chmod('/tmp', 0)]\n",
    "file handles": "A = lambda: call({open_by_handle_at}, -100, 0, 0)\n",
    "memory of the machine": "A = lambda: open('/dev/mem', 'rb')\n",
    "module": "A = lambda: call({finit_module}, 0, 0, 0)\n",
    "swap": "A = lambda: C.swapoff(b'/x') == 0 or {}[0]\n",
    "tests in inherited memory": """\
import gc
def own(o): return o is globals() or 'gc' in o
A = lambda: [o for o in gc.get_objects() if type(o) in (dict, list, tuple) and MARK in str(o) and not own(o)][0]
""",
    "descriptors left open": """\
A = lambda: [os.fstat(d) for d in range(5, 2000) if attempt(lambda: os.fstat(d)) != 'refused'][0]
""",
    "standard input": "A = lambda: os.read(0, 1)[0]\n",
    "earlier files": "A = lambda: os.listdir('/tmp')[0]\n",
}
"""`A` is what each tries; {}[...] is an error, so it stands for a refusal."""


def reaching(name: str, secret: str) -> str:
    """Return the program of that name, which returns what came of its attempt."""
    numbers = _NUMBERS["x86_64"]
    text = ATTEMPTS[name]
    for call, number in numbers.items():
        text = text.replace(f"{{{call}}}", str(number))
    return f"{_TRY}SECRET = {secret!r}\nMARK = 'the-' + 'mark'\n{text}def f(x): return attempt(A)\n"


_NUMBERS = {
    "x86_64": {
        "process_vm_readv": 310,
        "keyctl": 250,
        "clone": 56,
        "bpf": 321,
        "perf_event_open": 298,
        "userfaultfd": 323,
        "vmsplice": 278,
        "open_by_handle_at": 304,
        "finit_module": 313,
        "ioprio_set": 251,
    }
}
