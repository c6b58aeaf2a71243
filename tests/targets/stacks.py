"""Blocks on a stack of some kind, in native code that holds the GIL or not; see stacks.c, which says `ready`.

usage: stacks.py LIBRARY KIND ROOM MS [OTHERS]    OTHERS threads sleep meanwhile.

Then says `changed BYTES` and ends at the next input.
"""
import ctypes
import os
import sys
import threading
import time

library, kind, room, ms = sys.argv[1:5]
native = ctypes.CDLL(library)
native.block.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
native.block.restype = ctypes.c_long
asleep = threading.Semaphore(0)


def sleep():
    asleep.release()
    time.sleep(3600)


for _ in range(int(sys.argv[5]) if len(sys.argv) > 5 else 0):
    threading.Thread(target=sleep, daemon=True).start()
    asleep.acquire()
os.write(1, b"changed %d\n" % native.block(kind.encode(), int(room), int(ms)))
os.read(0, 100)
os._exit(0)
