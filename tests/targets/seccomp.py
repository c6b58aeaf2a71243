"""Puts itself under a seccomp filter, says `ready` and answers each line with `done` after fifty blocks.

`seccomp.py [KIND]`: see the end. `seccomp.py KIND COMMAND…` executes a command under the filter instead.
`seccomp.py KIND + MEMRAY CAPTURE [PREFIX…]` starts a target of its own, tracks it with MEMRAY, and ends with its
status; both with a prefix to their commands.
"""
import ctypes
import os
import struct
import subprocess
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22
KILL, ERRNO_EPERM, ALLOW = 0x80000000, 0x00050001, 0x7FFF0000
MEMFD_CREATE = 319
libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


def install(steps):
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = Program(len(steps), ctypes.addressof(code))
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program)) == 0, ctypes.get_errno()


def one_call(action):
    """Everything is allowed but memfd_create."""
    install([(0x20, 0, 0, 0), (0x15, 0, 1, MEMFD_CREATE), (0x06, 0, 0, action), (0x06, 0, 0, ALLOW)])


def no_new_code():
    """systemd's MemoryDenyWriteExecute: no mapping writable and executable, nothing made executable later."""
    mmap, mprotect, pkey_mprotect = 9, 10, 329
    protection = 32  # The third argument.
    install([
        (0x20, 0, 0, 0),
        (0x15, 2, 0, mprotect),
        (0x15, 1, 0, pkey_mprotect),
        (0x15, 3, 7, mmap),
        (0x20, 0, 0, protection),
        (0x54, 0, 0, 4),
        (0x15, 3, 4, 4),
        (0x20, 0, 0, protection),
        (0x54, 0, 0, 6),
        (0x15, 0, 1, 6),
        (0x06, 0, 0, ERRNO_EPERM),
        (0x06, 0, 0, ALLOW),
    ])


def allow_list():
    """What a container's profile has at least, without memfd_create; another call kills."""
    allowed = [*range(0, 101), *range(102, 134), 137, 138, 157, 158, 186, *range(200, 206), 217, 218, 228, *range(230, 236)]
    allowed += [*range(247, 250), *range(254, 296), 302, 318, 322, 332, 334, 424, 434, 435, 436, 439, 441]
    steps = [(0x20, 0, 0, 0)]
    for number in allowed:
        steps += [(0x15, 0, 1, number), (0x06, 0, 0, ALLOW)]
    install(steps + [(0x06, 0, 0, KILL)])


def strict():
    """read, write, exit and sigreturn: so malloc must have all of its memory, and nothing may be given back."""
    libc.mallopt(-1, 1 << 30)
    libc.mallopt(-3, 1 << 30)
    for _ in range(3):
        work()
    assert libc.prctl(PR_SET_SECCOMP, 1, 0, 0, 0) == 0, ctypes.get_errno()


def work():
    blocks = [bytearray(123456) for _ in range(50)]
    del blocks


KINDS = {
    "none": lambda: None,
    "kill": lambda: one_call(KILL),
    "errno": lambda: one_call(ERRNO_EPERM),
    "harmless": lambda: one_call(ALLOW),
    "no_new_code": no_new_code,
    "allow_list": allow_list,
    "strict": strict,
}


def session(memray, capture, *prefix):
    """Plays the container's init, its service and somebody who tracks that."""
    command = [*prefix, sys.executable, __file__, "none"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
        assert target.stdout.readline() == b"ready\n"
        status = subprocess.call([*prefix, memray, "attach", str(target.pid), "-q", "-o", capture])
        target.stdin.write(b"go\n")
        target.stdin.flush()
        assert target.stdout.readline() == b"done\n"
        if status == 0:
            status = subprocess.call([*prefix, memray, "detach", str(target.pid)])
        target.stdin.close()
        assert target.wait() == 0
    return status


arguments = sys.argv[1:] or ["kill"]
KINDS[arguments[0]]()
if arguments[1:2] == ["+"]:
    sys.exit(session(*arguments[2:]))
if arguments[1:]:
    os.execv(arguments[1], arguments[1:])
os.write(1, b"ready\n")
while os.read(0, 100):
    work()
    os.write(1, b"done\n")
