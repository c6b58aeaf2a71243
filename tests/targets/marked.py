"""Makes itself what its arguments say, prints `ready`, and ends with its input.

name TEXT: the kernel's name of it. undumpable: nobody of its user may trace it.
"""
import ctypes
import os
import sys

PR_SET_NAME, PR_SET_DUMPABLE = 15, 4
libc = ctypes.CDLL(None, use_errno=True)
words = iter(sys.argv[1:])
for word in words:
    if word == "name":
        assert libc.prctl(PR_SET_NAME, os.fsencode(next(words)), 0, 0, 0) == 0
    elif word == "undumpable":
        assert libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
os.write(1, b"ready\n")
os.read(0, 1)
