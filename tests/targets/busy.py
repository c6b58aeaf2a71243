"""Busy in native code until the next input, then says `did COUNT` (negative: a result was wrong; see busy.c).

usage: busy.py LIBRARY KIND gil|nogil     (held meanwhile, or not)
"""
import ctypes
import os
import sys

library, kind, gil = sys.argv[1:]
native = (ctypes.PyDLL if gil == "gil" else ctypes.CDLL)(library)
native.run.argtypes = [ctypes.c_char_p]
native.run.restype = ctypes.c_long
os.write(1, b"ready\n")
os.write(1, b"did %d\n" % native.run(kind.encode()))
os._exit(0)
