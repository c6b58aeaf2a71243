"""Runs a program that must not touch another process: whoever traces, writes into or signals one is killed.

usage: hands_off.py PROGRAM [ARGUMENT …]
"""
import ctypes
import os
import struct
import sys

PTRACE, KILL, TKILL, TGKILL, WRITEV = 101, 62, 200, 234, 311
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
# The low half of the second argument: ptrace's process (0 is none, which only asks whether ptrace may be called),
# kill's signal (0 is none).
SECOND = 16 + 8

FILTER = [
    (LOAD, 0, 0, 0),
    (EQUAL, 6, 0, WRITEV),
    (EQUAL, 5, 0, TKILL),
    (EQUAL, 4, 0, TGKILL),
    (EQUAL, 1, 0, PTRACE),
    (EQUAL, 0, 3, KILL),
    (LOAD, 0, 0, SECOND),
    (EQUAL, 1, 0, 0),
    (RETURN, 0, 0, KILL_PROCESS),
    (RETURN, 0, 0, ALLOW),
]
CODE = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in FILTER))


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


libc = ctypes.CDLL(None, use_errno=True)
program = Program(len(FILTER), ctypes.addressof(CODE))
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
