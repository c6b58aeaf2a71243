"""Puts itself under a filter that kills for memfd_create, then says `ready` and answers each line with `done`."""
import ctypes
import os
import struct

MEMFD_CREATE = 319
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000

FILTER = [(0x20, 0, 0, 0), (0x15, 1, 0, MEMFD_CREATE), (0x06, 0, 0, ALLOW), (0x06, 0, 0, KILL_PROCESS)]
CODE = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in FILTER))


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


libc = ctypes.CDLL(None, use_errno=True)
program = Program(len(FILTER), ctypes.addressof(CODE))
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)) == 0, ctypes.get_errno()
os.write(1, b"ready\n")
while os.read(0, 100):
    kept = [bytearray(5000) for _ in range(100)]
    os.write(1, b"done\n")
