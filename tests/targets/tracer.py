"""Traces a process, as a debugger would, until its input ends.   usage: tracer.py PID"""
import ctypes
import os
import sys

PTRACE_SEIZE = 0x4206
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
if libc.ptrace(PTRACE_SEIZE, int(sys.argv[1]), None, None):
    sys.exit("ptrace: %s" % os.strerror(ctypes.get_errno()))
os.write(1, b"ready\n")
os.read(0, 1)
